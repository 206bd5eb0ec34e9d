"""Kept predictions as a table: one row for each instance, so that a drift report reads them as it reads training data."""

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from services.inference.predict import likeliest
from services.inference.replica.keep import SIZES
from services.inference.replica.payloads import Answer, Stored
from services.inference.replica.spec import ReplicaSpec, Tensor

SHAPE = b"shape"
"""Metadata of a column of arrays, as data jobs read it: their dimensions."""

ANSWERS_MAX = 20_000  # that one report tells of: 2 MB

Array = NDArray[Any]


@dataclass(frozen=True)
class Record:
    """One kept request."""

    time: int
    """Nanoseconds since the epoch."""
    trace: str
    request: str
    tensors: Mapping[str, Array]


def read(path: Path) -> Iterator[Record]:
    """The records of a file of `keep`; ends where one is not whole."""
    with path.open("rb") as file:
        while len(sizes := file.read(SIZES.size)) == SIZES.size:
            head_size, body_size = SIZES.unpack(sizes)
            head, body = file.read(head_size), file.read(body_size)
            if len(head) < head_size or len(body) < body_size:
                return
            said = json.loads(head)
            tensors, at = {}, 0
            for name, kind, shape, size in said["tensors"]:
                tensors[name] = _decoded(kind, shape, body[at : at + size])
                at += size
            yield Record(said["time"], said["trace"], said["request"], tensors)


def write(path: Path, spec: ReplicaSpec) -> Stored | None:
    """A Parquet file beside a file of `keep`; None where it holds no record."""
    table = table_of(list(read(path)), spec)
    if not table.num_rows:
        return None
    target = path.with_suffix(".parquet")
    pa.parquet.write_table(table, target, compression="zstd")
    times = table["time"].to_pylist()
    dropped = int(path.stem.split("-")[2])
    return Stored(target, table.num_rows, min(times), max(times), dropped, answers_of(table))


def answers_of(table: "pa.Table") -> list[Answer]:
    """The class of each row, or its number where the model gives one and nothing else; none of other models."""
    outputs = [each for each in table.column_names if each.startswith("output.")]
    number = len(outputs) == 1 and pa.types.is_floating(table.schema.field(outputs[0]).type)
    column = "label" if "label" in table.column_names else outputs[0] if number else ""
    if not column:
        return []
    rows = table.slice(0, ANSWERS_MAX).select(["trace_id", "request_id", "instance", column]).to_pylist()
    return [Answer(*row.values()) for row in rows if row[column] not in ("", None)]


def table_of(records: Sequence[Record], spec: ReplicaSpec) -> "pa.Table":
    """One row for each instance.

    Columns: time, trace_id, request_id, revision, instance (its place in the request), `input.{name}`, `output.{name}`;
    for a model with labels also `label`, the likeliest. An array of a free shape has its own in `{column}.shape`.
    """
    batched = bool(spec.signature.max_batch_size)
    rows: list[tuple[Record, int, dict[str, Array]]] = []
    for record in records:
        arrays = record.tensors if batched else {key: each[None] for key, each in record.tensors.items()}
        count = min((len(each) for each in arrays.values()), default=0)
        rows += [(record, i, {key: _row(each, i) for key, each in arrays.items()}) for i in range(count)]
    columns = {
        "time": pa.array(
            [datetime.fromtimestamp(each.time / 1e9, UTC) for each, _, _ in rows], pa.timestamp("us", "UTC")
        ),
        "trace_id": pa.array([each.trace for each, _, _ in rows], pa.string()),
        "request_id": pa.array([each.request for each, _, _ in rows], pa.string()),
        "revision": pa.array([spec.revision] * len(rows), pa.string()),
        "instance": pa.array([index for _, index, _ in rows], pa.int32()),
    }
    fields = [pa.field(name, column.type) for name, column in columns.items()]
    made = list(columns.values())
    for kind, tensors in (("input", spec.signature.inputs), ("output", spec.signature.outputs)):
        for tensor in tensors:
            values = [
                arrays[f"{kind}.{tensor.name}"] for _, _, arrays in rows if f"{kind}.{tensor.name}" in arrays
            ]
            if len(values) == len(rows):
                for field, column in _columns(f"{kind}.{tensor.name}", tensor, values):
                    fields.append(field)
                    made.append(column)
    if spec.labels:
        outputs = [f"output.{each.name}" for each in spec.signature.outputs]
        found = [likeliest([a[name] for name in outputs if name in a], spec.labels)[0] for _, _, a in rows]
        if any(found):
            fields.append(pa.field("label", pa.string()))
            made.append(pa.array(found, pa.string()))
    return pa.table(made, schema=pa.schema(fields))


def _columns(name: str, tensor: Tensor, values: list[Array]) -> Iterator[tuple["pa.Field", "pa.Array"]]:
    size = math.prod(tensor.shape)
    first = values[0] if values else np.zeros(tensor.shape, np.float32)
    if first.dtype == object:
        if first.size == 1 and size in (1, -1):
            texts = [_text(each.ravel()[0]) for each in values]
            yield pa.field(name, pa.string()), pa.array(texts, pa.string())
        else:
            lists = [[_text(text) for text in each.ravel()] for each in values]
            yield pa.field(name, pa.list_(pa.string())), pa.array(lists, pa.list_(pa.string()))
        return
    if first.dtype == np.float16:
        values = [each.astype(np.float32) for each in values]
    if -1 in tensor.shape:
        kind = pa.list_(pa.from_numpy_dtype(values[0].dtype))
        yield pa.field(name, kind), pa.array([each.ravel() for each in values], kind)
        shapes = pa.list_(pa.int32())
        yield pa.field(f"{name}.shape", shapes), pa.array([list(each.shape) for each in values], shapes)
        return
    flat = pa.array(np.concatenate([each.ravel() for each in values]))
    if size == 1:
        yield pa.field(name, flat.type), flat
        return
    column = pa.FixedSizeListArray.from_arrays(flat, size)
    shape = ",".join(map(str, tensor.shape)).encode()
    yield pa.field(name, column.type, nullable=False, metadata={SHAPE: shape}), column


def _decoded(kind: str, shape: list[int], body: bytes) -> Array:
    if kind != "O":
        return np.frombuffer(body, kind).reshape(shape)
    texts: list[Any] = []
    at = 0
    while at < len(body):
        (size,) = struct.unpack_from("<I", body, at)
        texts.append(body[at + 4 : at + 4 + size])
        at += 4 + size
    return np.array([*texts, None], object)[:-1].reshape(shape)


def _row(array: Array, index: int) -> Array:
    return array[index : index + 1].reshape(array.shape[1:])  # an array also where it is one text


def _text(value: bytes) -> str:
    return value.decode(errors="replace")
