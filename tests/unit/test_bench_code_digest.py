"""What a kept figure of a bench is known by."""

from pathlib import Path

import pytest

from bench import code_digest


@pytest.mark.parametrize("part", code_digest.OURS)
def test_a_change_anywhere_in_the_code_is_another_digest(tmp_path: Path, part: str) -> None:
    roots = [tmp_path / name for name in ("before", "same", "after")]
    for root in roots:
        for each in code_digest.OURS:
            (root / each / "deep").mkdir(parents=True)
            (root / each / "deep" / "file.py").write_text("1")
    (roots[2] / part / "deep" / "file.py").write_text("2")
    before, same, after = (code_digest.sha256(root) for root in roots)
    assert before == same != after


def test_the_code_is_where_it_is_looked_for() -> None:
    root = Path(code_digest.__file__).resolve().parents[1]
    assert all(any((root / each).rglob("*.py")) for each in code_digest.OURS)
