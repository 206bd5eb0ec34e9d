"""COCO and folders of Hugging Face `datasets`, in and out; what is hostile in them is told, and nothing is read beside
them.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aios.errors import InvalidArgument
from aios.formats import export_shards, import_shards
from aios.formats.images import CLASSES

PNG = b"\x89PNG\r\n\x1a\n" + b"pixels"
BOX = {
    "id": 7,
    "image_id": 1,
    "category_id": 3,
    "bbox": [1.0, 2.0, 3.5, 4.0],
    "iscrowd": 0,
    "area": 14.0,
    "segmentation": [[1, 2, 3, 4, 5, 6]],
}
COCO: dict[str, Any] = {
    "images": [
        {"id": 1, "file_name": "a/1.png", "width": 8, "height": 6},
        {"id": 2, "file_name": "2.png", "width": 1, "height": 1},
    ],
    "annotations": [BOX],
    "categories": [{"id": 3, "name": "cat", "supercategory": "animal"}, {"id": 9, "name": "dog"}],
}


def coco(folder: Path, document: Any = COCO) -> Path:
    for name in ("images/a/1.png", "images/2.png"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PNG + name.encode())
    (folder / "annotations").mkdir(exist_ok=True)
    text = document if isinstance(document, str) else json.dumps(document)
    (folder / "annotations/instances_val.json").write_text(text)
    return folder


def saved(folder: Path, part: str = "", **changes: Any) -> Path:
    """A folder as `save_to_disk` writes it."""
    here = folder / part if part else folder
    here.mkdir(parents=True, exist_ok=True)
    features = {
        "image": {"_type": "Image"},
        "label": {"names": ["cat", "dog"], "_type": "ClassLabel"},
        "boxes": {"feature": {"dtype": "float32", "_type": "Value"}, "length": 4, "_type": "Sequence"},
    }
    table = pa.table(
        {
            "image": pa.array(
                [{"bytes": PNG, "path": None}, {"bytes": changes.get("bytes", PNG), "path": "x.png"}],
                pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
            ),
            "label": [1, 0],
            "boxes": pa.array([[1, 2, 3, 4], [5, 6, 7, 8]], pa.list_(pa.float32(), 4)),
        }
    )
    with (
        pa.OSFile(str(here / "data-00000-of-00001.arrow"), "wb") as out,
        pa.ipc.new_stream(out, table.schema) as w,
    ):
        w.write_table(table)
    files = [{"filename": changes.get("filename", "data-00000-of-00001.arrow")}]
    (here / "state.json").write_text(json.dumps({"_data_files": files, "_split": part or "train"}))
    (here / "dataset_info.json").write_text(json.dumps({"features": changes.get("features", features)}))
    if part:
        (folder / "dataset_dict.json").write_text(json.dumps({"splits": [part]}))
    return folder


def rows(paths: list[Path]) -> list[dict[str, Any]]:
    return [row for path in paths for row in pa.ipc.open_file(str(path)).read_all().to_pylist()]


def test_coco_comes_back_as_it_was(tmp_path: Path) -> None:
    shards = import_shards(coco(tmp_path / "in"), tmp_path / "shards")
    [first, second] = rows(shards)
    assert (first["image_id"], first["path"], first["image"]) == (1, "a/1.png", PNG + b"images/a/1.png")
    assert (first["objects"][0]["category_id"], first["objects"][0]["bbox"]) == (3, [1.0, 2.0, 3.5, 4.0])
    assert second["objects"] == []

    export_shards(shards, tmp_path / "out", "coco")

    assert json.loads((tmp_path / "out/annotations/instances_val.json").read_text()) == COCO
    assert (tmp_path / "out/images/a/1.png").read_bytes() == PNG + b"images/a/1.png"


def test_a_folder_of_datasets_comes_back_as_it_was(tmp_path: Path) -> None:
    shards = import_shards(saved(tmp_path / "in", "test"), tmp_path / "shards")
    found = rows(shards)
    assert [(row["image"], row["label"], row["split"]) for row in found] == [
        (PNG, 1, "test"),
        (PNG, 0, "test"),
    ]
    assert pa.ipc.open_file(str(shards[0])).schema.field("label").metadata == {CLASSES: b"cat\ndog"}

    export_shards(shards, tmp_path / "out", "huggingface")
    again = import_shards(tmp_path / "out", tmp_path / "again")

    assert rows(again) == found
    info = json.loads((tmp_path / "out/test/dataset_info.json").read_text())
    assert info["features"] == json.loads((tmp_path / "in/test/dataset_info.json").read_text())["features"]
    assert info["splits"]["test"]["num_examples"] == 2


def without(key: str, number: int, field: str) -> dict[str, Any]:
    copy = json.loads(json.dumps(COCO))
    del copy[key][number][field]
    return dict(copy)


def changed(key: str, number: int, field: str, value: Any) -> dict[str, Any]:
    copy = json.loads(json.dumps(COCO))
    copy[key][number][field] = value
    return dict(copy)


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[]", "no lists"),
        ({"images": {}, "annotations": []}, "no lists"),
        (without("images", 0, "file_name"), r"images\[0\]"),
        (changed("images", 1, "id", 1), r"images\[1\]"),
        (changed("images", 0, "file_name", "../../etc/passwd"), "leads out"),
        (changed("images", 0, "file_name", "/etc/passwd"), "leads out"),
        (changed("images", 0, "file_name", "none.png"), "not there"),
        (changed("annotations", 0, "image_id", 5), "annotates image 5"),
        (changed("annotations", 0, "category_id", 4), "category 4"),
        (changed("annotations", 0, "bbox", [1, 2]), "four numbers"),
        (changed("annotations", 0, "id", "x"), "id is no number"),
        (changed("categories", 0, "name", 5), r"categories\[0\]"),
    ],
)
def test_hostile_coco_is_told(tmp_path: Path, document: Any, told: str) -> None:
    with pytest.raises(InvalidArgument, match=told):
        import_shards(coco(tmp_path / "in", document), tmp_path / "out")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda at: saved(at, filename="../../etc/passwd"), "leads out"),
        (lambda at: saved(at, filename="none.arrow"), "not there"),
        (lambda at: saved(at, filename="state.json"), "cannot be read"),
        (lambda at: saved(at, bytes=None), "names files"),
        (lambda at: saved(at, features={"label": {"_type": "ClassLabel", "names": 5}}), "no names"),
    ],
)
def test_a_hostile_folder_of_datasets_is_told(
    tmp_path: Path, make: Callable[[Path], Path], told: str
) -> None:
    with pytest.raises(InvalidArgument, match=told):
        import_shards(make(tmp_path / "in"), tmp_path / "out")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
_KEYS = st.sampled_from(
    ["images", "annotations", "categories", "id", "file_name", "image_id", "_data_files", "splits"]
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=st.dictionaries(_KEYS, _JSON | st.lists(st.dictionaries(_KEYS, _JSON, max_size=3), max_size=3)))
def test_whatever_the_json_says_it_is_read_or_told(tmp_path: Path, said: dict[str, Any]) -> None:
    folder = tmp_path / "in"
    for make, name in (
        (coco, "annotations/instances_val.json"),
        (saved, "state.json"),
        (saved, "dataset_dict.json"),
    ):
        make(folder)
        (folder / name).write_text(json.dumps(said))
        for form in ("coco", "huggingface"):
            with suppress(InvalidArgument):
                import_shards(folder, tmp_path / "out", form)
