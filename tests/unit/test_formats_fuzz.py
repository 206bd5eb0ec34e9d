"""Every importer on what somebody made to break it: a sound source with bytes, names or values changed.

Whatever it is, it is read, or refused with the file's or folder's name; and nothing but shards is written, where they
belong.
"""

import copy
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aios.errors import InvalidArgument
from aios.formats import FORMATS, import_shards
from tests.doors.sizes import EXAMPLES
from tests.unit.test_formats import PNG, idx, tar
from tests.unit.test_formats_folders import COCO, coco, saved

TABLE = {"a": [1, 2, 3], "b": ["x", "y", None], "c": [[1.5], [], None]}
HOSTILE_NAMES = (b"\xff\xfe.png", b"a\nb.png", b"x" * 250, b"-rf.png", b"..png", "é\u202e.png".encode())
DEEP = "[" * 900 + "]" * 900


def arrow(path: Path) -> None:
    table = pa.table(TABLE)
    with pa.OSFile(str(path), "wb") as out, pa.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table)


def images(folder: Path) -> None:
    for name in ("cat/1.png", "dog/2.png"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(PNG)


def digits(folder: Path) -> None:
    folder.mkdir()
    idx(folder / "t-images-idx3-ubyte.gz", 8, [2, 2, 2], bytes(8))
    idx(folder / "t-labels-idx1-ubyte", 8, [2], bytes(2))


MAKE: dict[str, Callable[[Path], object]] = {
    "csv": lambda at: at.write_text('a,b\n1,x\n2,"y\nz"\n'),
    "tsv": lambda at: at.write_text("a\tb\n1\tx\n2\ty\n"),
    "jsonl": lambda at: at.write_text('{"a": 1, "b": [1, {"c": null}]}\n{"a": 2}\n'),
    "parquet": lambda at: pq.write_table(pa.table(TABLE), at),
    "arrow": arrow,
    "images": images,
    "coco": coco,
    "huggingface": lambda at: saved(at, "train"),
    "idx": digits,
    "webdataset": lambda at: tar(at, [("1.jpg", PNG), ("1.cls", b"0"), ("2.jpg", PNG)]),
}


def test_every_importer_is_tried() -> None:
    assert MAKE.keys() == FORMATS.keys()


def attempt(source: Path, form: str) -> str:
    """Import beside a source. Returns what was told, empty where it was read."""
    home, before = source.parent, seen(source.parent)
    told = ""
    try:
        made = import_shards(source, home / "out", form)
    except InvalidArgument as refused:
        told = refused.message
        assert str(source) in told or "holds no record" in told
        told.encode()
    else:
        assert all(path.parent == home / "out" for path in made)
    assert all(path.suffix == ".arrow" for path in (home / "out").iterdir())
    shutil.rmtree(home / "out")
    assert seen(home) == before
    return told


def seen(home: Path) -> dict[Path, tuple[int, int]]:
    return {
        each: (each.lstat().st_size, each.lstat().st_mtime_ns) for each in home.rglob("*") if each.is_file()
    }


@pytest.mark.parametrize("form", MAKE)
def test_no_bytes_in_it_break_an_importer(form: str) -> None:
    @settings(
        max_examples=20 * EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(st.data())
    def survives(data: st.DataObject) -> None:
        with TemporaryDirectory() as home:
            source = Path(home, "source")
            MAKE[form](source)
            files = sorted(each for each in [source, *source.rglob("*")] if each.is_file())
            file = data.draw(st.sampled_from(files))
            content = file.read_bytes()
            start = data.draw(st.integers(0, len(content)))
            end = data.draw(st.integers(start, min(len(content), start + 20)))
            file.write_bytes(content[:start] + data.draw(st.binary(max_size=20)) + content[end:])
            attempt(source, form)

    survives()


@pytest.mark.parametrize("form", ["images", "coco", "huggingface", "idx"])
@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_no_name_in_it_breaks_an_importer(tmp_path: Path, form: str, name: bytes) -> None:
    source = tmp_path / "source"
    MAKE[form](source)
    for file in sorted(each for each in source.rglob("*") if each.is_file()):
        file.rename(os.fsdecode(bytes(file.parent) + b"/" + name))
        attempt(source, form)
        shutil.rmtree(source)
        MAKE[form](source)


def test_a_name_that_is_no_text_is_told(tmp_path: Path) -> None:
    images(tmp_path / "source")
    (tmp_path / "source/cat/1.png").rename(os.fsdecode(bytes(tmp_path) + b"/source/cat/\xff.png"))
    assert "\\udcff.png" in attempt(tmp_path / "source", "images")
    member = os.fsdecode(b"\xff.jpg")
    assert "\\udcff.jpg" in attempt(tar(tmp_path / "a.tar", [(member, PNG)]), "webdataset")


ODD: list[Any] = [
    *(
        None,
        True,
        -1,
        2**63,
        10**400,
        1.5,
        float("nan"),
        "",
        "../x",
        "/etc/passwd",
        "a\0b",
        "\ud800",
        "x" * 300,
    ),
    *([], {}, [[]], [None], [{}], {"bytes": 1}, json.loads(DEEP)),
]


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_no_value_in_its_json_breaks_an_importer(tmp_path: Path, odd: Any) -> None:
    source = tmp_path / "source"
    for changed in variants(COCO, odd):
        attempt(coco(source, json.dumps(changed)), "coco")
    shutil.rmtree(source)
    for name in ("dataset_dict.json", "train/state.json", "train/dataset_info.json"):
        saved(source, "train")
        for changed in variants(json.loads((source / name).read_text()), odd):
            (source / name).write_text(json.dumps(changed))
            attempt(source, "huggingface")


def variants(document: Any, odd: Any) -> list[Any]:
    """A document with each value in it, one at a time, replaced."""
    found = [odd]
    keys = (
        document if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    )
    for key in keys:
        for inner in variants(document[key], odd):
            changed = copy.copy(document)
            changed[key] = inner
            found.append(changed)
    return found


@pytest.mark.parametrize("sizes", [[0], [2, 0, 2], [2, 2**31, 2**31], [2**32 - 1], [2, 2], [3, 2, 2]])
@pytest.mark.parametrize("kind", [8, 0x0E, 0x55])
def test_no_header_breaks_idx(tmp_path: Path, kind: int, sizes: list[int]) -> None:
    digits(tmp_path / "source")
    for name in ("t-images-idx3-ubyte.gz", "t-labels-idx1-ubyte"):
        content = np.full(8, np.nan).tobytes()
        idx(tmp_path / "source" / name, kind, sizes, content)
        attempt(tmp_path / "source", "idx")


@pytest.mark.parametrize("form", MAKE)
def test_a_source_of_another_kind_is_told(tmp_path: Path, form: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "folder/pipe.tar")
    for source in ("file", "folder", "nothing"):
        assert attempt(tmp_path / source, form)
