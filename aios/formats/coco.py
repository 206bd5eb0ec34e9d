"""COCO: images beside JSON that says what is where in them. Read and written without a loss of what it says.

Source: Lin et al., Microsoft COCO: Common Objects in Context (the format's page, "Data format").
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from aios.errors import InvalidArgument
from aios.formats.images import BATCH_BYTES, CLASSES, read_image

JSON_BYTES_MAX = 1 << 30
IMAGES_MAX = 5_000_000
CATEGORIES = b"coco_categories"
"""Metadata of the column `objects`: the categories as COCO lists them, JSON."""
_OBJECT = pa.struct(
    [
        pa.field("id", pa.int64()),
        pa.field("category_id", pa.int64()),
        pa.field("bbox", pa.list_(pa.float64())),
        # What COCO says beside those, as it says it: segmentation, keypoints, area, iscrowd.
        pa.field("more", pa.string()),
    ]
)


def read_folder(folder: Path) -> Iterator["pa.RecordBatch"]:
    """Columns `path`, `image` (the file's bytes), `image_id`, `split`, `objects` and `more` (JSON).

    Raises:
        InvalidArgument: naming the file, and the image or annotation in it.
    """
    files = sorted([*folder.glob("annotations/*.json"), *folder.glob("*.json")]) if folder.is_dir() else []
    if not files:
        raise InvalidArgument.of("source", f"{str(folder)!r} holds no `annotations/*.json`")
    documents = [(file, _document(file)) for file in files]
    categories = _categories(documents)
    objects = pa.field("objects", pa.list_(_OBJECT), metadata={CATEGORIES: json.dumps(categories).encode()})
    schema = pa.schema(
        [
            pa.field("path", pa.string(), nullable=False),
            pa.field("image", pa.binary(), nullable=False),
            pa.field("image_id", pa.int64(), nullable=False),
            pa.field("split", pa.string(), nullable=False),
            objects,
            pa.field("more", pa.string(), nullable=False),
        ]
    )
    for file, document in documents:
        split = file.stem.partition("_")[2] or file.stem
        rows: list[dict[str, Any]] = []
        for row in _rows(folder, file, split, document, {each["id"] for each in categories}):
            rows.append(row)
            if sum(len(each["image"]) for each in rows) >= BATCH_BYTES:
                yield pa.RecordBatch.from_pylist(rows, schema)
                rows = []
        if rows:
            yield pa.RecordBatch.from_pylist(rows, schema)


def write_folder(tables: Iterable["pa.Table"], folder: Path) -> None:
    """Write records that `read_folder` made, or images with classes, as COCO.

    Raises:
        InvalidArgument: they have no column `image`.
    """
    documents: dict[str, dict[str, Any]] = {}
    used: set[str] = set()
    number = 0
    for table in tables:
        if "image" not in table.column_names or not pa.types.is_binary(table.schema.field("image").type):
            raise InvalidArgument.of("source", "has no column `image` of files: COCO is for images")
        categories = _known_categories(table)
        for row in table.to_pylist():
            number += 1
            document = documents.setdefault(
                row.get("split") or "all", {"images": [], "annotations": [], "categories": categories}
            )
            path = _safe(row.get("path") or f"{number:08}.img")
            if path in used:
                raise InvalidArgument.of("source", f"{path!r} stands twice")
            used.add(path)
            target = folder / "images" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(row["image"])
            image_id = row.get("image_id") if row.get("image_id") is not None else number
            document["images"].append(
                {**json.loads(row.get("more") or "{}"), "id": image_id, "file_name": path}
            )
            document["annotations"] += _annotations(row, image_id)
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for split, document in documents.items():
        _number(documents, document)
        (folder / "annotations" / f"instances_{_safe(split).replace('/', '-')}.json").write_text(
            json.dumps(document)
        )


def _document(file: Path) -> Mapping[str, Any]:
    if not file.is_file() or file.stat().st_size > JSON_BYTES_MAX:
        raise InvalidArgument.of("source", f"{str(file)!r} is no file, or larger than {JSON_BYTES_MAX} bytes")
    try:
        document = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InvalidArgument.of("source", f"{str(file)!r} is no JSON: {error}") from None
    lists = [document.get(key) for key in ("images", "annotations")] if isinstance(document, dict) else [None]
    if not all(isinstance(each, list) for each in lists):
        raise InvalidArgument.of("source", f"{str(file)!r} has no lists of images and annotations")
    if len(document["images"]) > IMAGES_MAX:
        raise InvalidArgument.of("source", f"{str(file)!r} has more than {IMAGES_MAX} images")
    return dict(document)


def _categories(documents: Iterable[tuple[Path, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for file, document in documents:
        listed = document.get("categories") or []
        for number, each in enumerate(listed if isinstance(listed, list) else [listed]):
            where = f"{str(file)!r}: categories[{number}]"
            if (
                not isinstance(each, dict)
                or not _is_id(each.get("id"))
                or not isinstance(each.get("name"), str)
            ):
                raise InvalidArgument.of("source", f"{where} has no id and name")
            if found.setdefault(each["id"], each)["name"] != each["name"]:
                raise InvalidArgument.of("source", f"{where} is another one elsewhere")
    return [found[each] for each in sorted(found)]


def _rows(
    folder: Path, file: Path, split: str, document: Mapping[str, Any], categories: set[int]
) -> Iterator[dict[str, Any]]:
    objects: dict[int, list[dict[str, Any]]] = {}
    for number, each in enumerate(document["annotations"]):
        where = f"{str(file)!r}: annotations[{number}]"
        if not isinstance(each, dict) or not _is_id(each.get("image_id")):
            raise InvalidArgument.of("source", f"{where} names no image")
        objects.setdefault(each["image_id"], []).append(_object(each, where, categories))
    seen: set[int] = set()
    for number, each in enumerate(document["images"]):
        where = f"{str(file)!r}: images[{number}]"
        name = each.get("file_name") if isinstance(each, dict) else None
        if not isinstance(name, str) or not _is_id(each.get("id")) or each["id"] in seen:
            raise InvalidArgument.of("source", f"{where} has no file_name, or no id of its own")
        seen.add(each["id"])
        more = {key: value for key, value in each.items() if key not in ("id", "file_name")}
        yield {
            "path": name,
            "image": read_image(_found(folder, split, name, where)),
            "image_id": each["id"],
            "split": split,
            "objects": objects.pop(each["id"], []),
            "more": json.dumps(more),
        }
    if objects:
        raise InvalidArgument.of(
            "source", f"{str(file)!r} annotates image {next(iter(objects))}, and has none"
        )


def _object(each: Mapping[str, Any], where: str, categories: set[int]) -> dict[str, Any]:
    box = each.get("bbox")
    if box is not None and not (
        isinstance(box, list) and len(box) == 4 and all(isinstance(side, int | float) for side in box)
    ):
        raise InvalidArgument.of("source", f"{where}: bbox is no four numbers")
    category, number = each.get("category_id"), each.get("id")
    if category is not None and not (_is_id(category) and category in categories):
        raise InvalidArgument.of("source", f"{where}: category {category!r} is not among the categories")
    if number is not None and not _is_id(number):
        raise InvalidArgument.of("source", f"{where}: id is no number")
    more = {key: value for key, value in each.items() if key not in ("id", "image_id", "category_id", "bbox")}
    return {"id": number, "category_id": category, "bbox": box, "more": json.dumps(more)}


def _found(folder: Path, split: str, name: str, where: str) -> Path:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise InvalidArgument.of("source", f"{where}: {name[:200]!r} leads out of the folder")
    for inside in ("images", split, ".", f"images/{split}"):
        candidate = folder / inside / path
        if candidate.is_file():
            return candidate
    raise InvalidArgument.of("source", f"{where}: {name[:200]!r} is not there")


def _annotations(row: Mapping[str, Any], image_id: int) -> Iterator[dict[str, Any]]:
    if row.get("objects") is not None:
        for each in row["objects"]:
            said = {key: each[key] for key in ("id", "category_id", "bbox") if each[key] is not None}
            yield {**json.loads(each["more"] or "{}"), **said, "image_id": image_id}
    elif row.get("label") is not None:
        yield {"image_id": image_id, "category_id": row["label"]}


def _known_categories(table: "pa.Table") -> list[dict[str, Any]]:
    if "objects" in table.column_names:
        said = (table.schema.field("objects").metadata or {}).get(CATEGORIES, b"[]")
        return list(json.loads(said))
    if "label" in table.column_names:
        names = (table.schema.field("label").metadata or {}).get(CLASSES, b"").decode()
        return [{"id": number, "name": name} for number, name in enumerate(names.split("\n")) if name]
    return []


def _number(documents: Mapping[str, Any], document: dict[str, Any]) -> None:
    """Ids for annotations that have none."""
    taken = {each["id"] for other in documents.values() for each in other["annotations"] if "id" in each}
    free = max(taken, default=0) + 1
    for each in document["annotations"]:
        if "id" not in each:
            each["id"], free = free, free + 1


def _safe(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise InvalidArgument.of("source", f"{name[:200]!r} leads out of the folder")
    return str(path)


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
