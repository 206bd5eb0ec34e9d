"""A kept prediction out of the payload log."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
from numpy.typing import NDArray

from aios.common.v1.tensor_pb2 import Signature, TensorSpec
from aios.errors import FailedPrecondition, NotFound

Array = NDArray[Any]
DTYPES = {"BOOL": "?", "FP16": "f2", "FP32": "f4", "FP64": "f8"} | {
    f"{sign}INT{bits}": f"{sign.lower() or 'i'}{bits // 8}" for sign in ("", "U") for bits in (8, 16, 32, 64)
}


@dataclass(frozen=True)
class Kept:
    """One instance of a prediction, and what was kept beside it."""

    revision: str
    time: str
    label: str
    row: Mapping[str, Any]
    beside: "pa.Table"
    """All instances of the same file: what is usual."""

    def inputs(self, signature: Signature) -> dict[str, Array]:
        """The inputs as the model takes them, without a batch dimension; texts are `str`.

        Raises:
            FailedPrecondition: one was not kept, or only its digest.
        """
        return {each.name: self._input(each) for each in signature.inputs}

    def baseline(self, signature: Signature) -> dict[str, Array]:
        """What an absent value is: 0 in arrays of two dimensions or more, the mean of what was kept beside it else."""
        made = {}
        for each in signature.inputs:
            value = self._input(each)
            base = np.zeros_like(value)
            column = f"input.{each.name}"
            if value.ndim < 2 and value.dtype.kind == "f":
                stored = self.beside[column].combine_chunks()
                flat = stored.flatten() if isinstance(stored, pa.FixedSizeListArray) else stored
                if not pa.types.is_list(stored.type):
                    rows = flat.to_numpy(zero_copy_only=False).reshape(len(stored), -1)
                    base = rows.mean(axis=0).astype(value.dtype).reshape(value.shape)
            made[each.name] = base
        return made

    def _input(self, tensor: TensorSpec) -> Array:
        name = f"input.{tensor.name}"
        if name not in self.row:
            raise FailedPrecondition(
                f"{name} was not kept (redact), so the prediction cannot be repeated.",
                reason="INPUT_NOT_KEPT",
            )
        value = self.row[name]
        shape = self.row.get(f"{name}.shape") or list(tensor.shape)
        if tensor.datatype == "BYTES":
            texts = [value] if isinstance(value, str) else list(value)
            return np.array([*texts, None], object)[:-1].reshape([max(size, 1) for size in shape])
        try:
            return np.array(value, DTYPES[tensor.datatype]).reshape(shape)
        except ValueError as error:
            raise FailedPrecondition(
                f"Only a digest of {name} was kept, so the prediction cannot be repeated.",
                reason="INPUT_NOT_KEPT",
            ) from error


def find(folder: Path, trace_id: str, request_id: str, instance: int) -> Kept | None:
    """The prediction in the files of a version, if it is there.

    Raises:
        NotFound: the request is there and has no such instance.
    """
    column, wanted = ("trace_id", trace_id) if trace_id else ("request_id", request_id)
    for path in _files(folder):
        keys = pa.parquet.read_table(path, columns=[column, "instance"])
        mask = pc.equal(keys[column], wanted)
        if not pc.any(mask).as_py():
            continue
        table = pa.parquet.read_table(path)
        mine = table.filter(mask)
        chosen = mine.filter(pc.equal(mine["instance"], instance))
        if not chosen.num_rows:
            raise NotFound(
                f"The request has {mine.num_rows} instances, counted from 0: there is no {instance}."
            )
        row = chosen.slice(0, 1).to_pylist()[0]
        return Kept(row["revision"], str(row["time"]), row.get("label") or "", row, table)
    return None


def outputs(row: Mapping[str, Any]) -> dict[str, Array]:
    """What the model answered, as far as it was kept whole."""
    return {
        key: np.array(value, np.float64)
        for key, value in row.items()
        if key.startswith("output.") and not key.endswith(".shape") and not isinstance(value, str)
    }


def _files(folder: Path) -> Iterator[Path]:
    yield from sorted(folder.rglob("*.parquet"), reverse=True)
