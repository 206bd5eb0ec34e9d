"""Locks of packages, and the environments that a node makes of them."""

import asyncio
import subprocess
from pathlib import Path

import pytest

from aios.errors import InvalidArgument
from aios.requirements import locked
from services.scheduler.agent.environments import EnvironmentFailed, Environments
from tests.wheels import wheel

HASH = f"--hash=sha256:{'ab' * 32}"


def test_a_lock_is_its_packages_whatever_it_looks_like() -> None:
    text = f"""# made by a tool
b==2.0 ; python_version >= "3.11" \\
    {HASH}
    # via a
a[extra]==1.0 \\
    {HASH} \\
    {HASH}
"""
    expected = [f"a[extra]==1.0 {HASH}", f'b==2.0 ; python_version >= "3.11" {HASH}']
    assert locked(text) == expected
    assert locked("\n".join(reversed(expected))) == expected


@pytest.mark.parametrize(
    "line",
    [
        "",
        "a",
        "a==1.0",
        f"a>=1.0 {HASH}",
        f"a @ https://example.org/a.whl {HASH}",
        f"./a.whl {HASH}",
        f"-e git+https://example.org/a {HASH}",
        "--index-url https://example.org",
        f"a==1.0 --index-url=https://example.org {HASH}",
        "-r /etc/passwd",
        "a==1.0 --hash=md5:abc",
        f"a==1.0 --hash=sha256:{'zz' * 32}",
        f"a==1.0 {HASH} --config-settings=x",
        f"a==1.0; $(touch /tmp/x) {HASH}",
        f"a==1.0 {HASH}\nb==1.0",
    ],
)
def test_a_lock_names_packages_and_nothing_else(line: str) -> None:
    with pytest.raises(InvalidArgument):
        locked(line)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that packages are found in, and nowhere else."""
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "index"


async def test_an_environment_is_made_once_and_has_what_the_lock_says(tmp_path: Path, index: Path) -> None:
    lock = wheel(index, "hello")
    environments = Environments(tmp_path / "made", index=str(index))
    made = await environments.get(lock)
    program = [str(made / "bin" / "python"), "-c", "import tiny; print(tiny.SAID)"]
    assert await asyncio.to_thread(subprocess.check_output, program, text=True) == "hello\n"
    (index / "tiny-1.0-py3-none-any.whl").unlink()
    assert await Environments(tmp_path / "made", index=str(index)).get(f"# the same\n{lock}") == made
    (made / "ready").unlink()  # as one that a crash left
    with pytest.raises(EnvironmentFailed, match="tiny"):
        await environments.get(lock)


async def test_a_file_that_is_not_the_locks_is_refused(tmp_path: Path, index: Path) -> None:
    wheel(index, "hello")
    with pytest.raises(EnvironmentFailed, match="Hash mismatch"):
        await Environments(tmp_path / "made", index=str(index)).get(f"tiny==1.0 {HASH}\n")
    with pytest.raises(EnvironmentFailed, match="name==version"):
        await Environments(tmp_path / "made", index=str(index)).get("-e .")


async def test_what_was_unused_for_longest_goes(
    tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.scheduler.agent.environments.KEPT", 1)
    environments = Environments(tmp_path / "made", index=str(index))
    first, second, third = [await environments.get(wheel(index, said)) for said in "abc"]
    assert [each.is_dir() for each in (first, second, third)] == [False, True, True]
    await environments.get(wheel(index, "d"), used=lambda: [str(second), str(third)])
    assert second.is_dir()
    assert third.is_dir()
