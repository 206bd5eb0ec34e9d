"""Steps of transforms that go row by row: a result says nothing of where its input was cut, or of who did the pieces."""

import io
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from services.data import transforms
from services.data.job.engine import Done, Engine, Local, call, over
from services.data.job.on_ray import Ray, RayNotReady, work
from services.data.job.parts import Form, Source
from services.data.job.transforms import clean, mask, pii, profile, resize, tokenise
from services.data.job.work import Work, folder_of
from services.data.transform_types import TYPES

MODULES = {each.__name__.rpartition(".")[2]: each for each in (clean, mask, pii, profile, resize, tokenise)}
PARAMETERS: dict[str, dict[str, Any]] = {
    "clean": {"near_duplicates": 0.8},
    "resize": {"width": 6, "height": 5},
    "tokenise": {"column": "text", "vocabulary": 20, "length": 6},
}


def version() -> Source:
    """Images of which some are none, and texts of which some say who wrote them or are nearly the same."""
    random = np.random.default_rng(5)
    images, texts = [], []
    for row in range(40):
        out = io.BytesIO()
        Image.fromarray(random.integers(0, 255, (8 + row % 3, 9, 3), np.uint8)).save(out, "PNG")
        images.append(out.getvalue() if row % 9 else out.getvalue()[:60])
        words = " ".join(random.choice(["river", "bank", "fox", "noon", "dog", "lazy"], 12))
        texts.append(
            f"{words} mail p{row}@example.org" if row % 4 else "the quick brown fox was here at noon"
        )
    table = pa.table({"image": images, "text": [None, *texts[1:]], "number": list(range(40))})
    return Source({"train": table.slice(0, 30), "test": table.slice(30)}, Form.TABLE)


def written(name: str, engine: Engine, folder: Path) -> dict[str, bytes]:
    """Every file of what a transform makes."""
    source = version()
    work = Work(transforms.parameters_of(name, PARAMETERS.get(name, {})), source, engine=engine)
    folder_of(MODULES[name].run(work), folder, source.form)
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


class Names:
    """Does as `Local`, and keeps what was sent."""

    piece_bytes = 500

    def __init__(self) -> None:
        self.steps: list[str] = []

    def run(self, step: str, given: str, pieces: Iterable[bytes]) -> Iterator[Done]:
        self.steps.append(step)
        return Local().run(step, given, pieces)

    def close(self) -> None:
        pass


def test_these_are_the_types_that_go_by_rows() -> None:
    assert {name for name, each in TYPES.items() if each.by_rows} == set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_a_result_is_the_same_bytes_wherever_its_input_was_cut(name: str, tmp_path: Path) -> None:
    whole, cut = (
        written(name, Local(1 << 30), tmp_path / "whole"),
        written(name, Local(400), tmp_path / "cut"),
    )

    assert cut == whole
    assert len(whole) > 1


@pytest.mark.parametrize("name", MODULES)
def test_what_is_sent_names_a_function_of_ours(name: str, tmp_path: Path) -> None:
    engine = Names()

    written(name, engine, tmp_path / "made")

    assert engine.steps
    assert all(each.startswith("services.data.job.") and "<" not in each for each in engine.steps)


def test_a_table_without_rows_keeps_its_columns() -> None:
    made = over(
        Local(), tokenise.numbered, pa.table({"t": pa.array([], pa.string())}), by_words=False, length=4
    )

    assert (made.table.num_rows, made.table.column_names, made.total("cut")) == (0, ["tokens"], 0)


def test_who_has_other_code_does_nothing() -> None:
    with pytest.raises(RayNotReady, match="install the same"):
        work("code of last week", "services.data.job.transforms.pii:look", "{}", b"")


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed")
def test_a_node_without_ray_says_what_to_install() -> None:
    with pytest.raises(RayNotReady, match=r"pip install 'aios-platform\[ray\]'"):
        Ray("ray://127.0.0.1:1")


def test_a_step_is_called_by_its_name() -> None:
    sent: list[bytes] = []

    class Keeping(Local):
        def run(self, step: str, given: str, pieces: Iterable[bytes]) -> Iterator[Done]:
            sent.extend(pieces)
            return (call(step, given, piece) for piece in sent)

    made = over(Keeping(), pii.look, pa.table({"t": ["a@example.org", None]}), kinds=["email"])

    assert made.told == [(0, {"email": {"rows": 1, "example": "a@aaaaaaa.aaa"}})]
