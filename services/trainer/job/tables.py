"""Tables of a dataset version as arrays: CSV, Parquet or NPZ, with what each column means.

A version holds `train.csv` and `test.csv` (or .parquet, .npz), or one such file of any name, of which a fifth is held
out. A column of text becomes one column per value that the training part has, called `column=value`; a missing number
becomes the column's mean there. An NPZ file holds `x` [N, D] and `y` [N].

Shapes: N samples, D features, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from aios.errors import InvalidArgument

FORMATS = (".csv", ".parquet", ".npz")
HELD_OUT = 0.2
VALUES_MAX = 100  # of a column of text: one with more is an id, not a feature

Array = NDArray[Any]


@dataclass(frozen=True)
class Table:
    """Samples and what is to be learnt of them."""

    x_ND: Array
    y_N: Array
    """Class indices, numbers, or empty."""
    features: Sequence[str]
    classes: Sequence[str]
    """Empty where y holds numbers."""


def load(folder: Path, target: str, *, classes: bool, seed: int) -> tuple[Table, Table]:
    """The training part and the held-out part.

    Args:
        target: Column to learn; the last one where empty; none where `-`.
        classes: The target names classes, rather than being a number.

    Raises:
        InvalidArgument: naming the file and what is wrong with it.
    """
    train, test = parts(folder, seed)
    name = target or train.column_names[-1]
    if target != "-" and name not in train.column_names:
        raise InvalidArgument.of(
            "hyperparameters.target", f"there is no column {name!r}: {', '.join(train.column_names)}"
        )
    columns = [column for column in train.column_names if column != name]
    encoders = [_Encoder(column, train[column]) for column in columns]
    known: list[Any] = []
    if target != "-" and classes:
        known = sorted(
            pc.unique(pa.concat_arrays([*train[name].chunks, *test[name].chunks]).drop_null()).to_pylist()
        )
    made = []
    for part in (train, test):
        x = np.concatenate([encoder(part[encoder.column]) for encoder in encoders], axis=1)
        y = np.empty(0)
        if target != "-":
            y = _target(part[name], known, name)
        features = [feature for encoder in encoders for feature in encoder.features]
        made.append(Table(x, y, features, [str(each) for each in known]))
    return made[0], made[1]


def present(column: Any, name: str) -> list[Any]:
    """What a target is in every row.

    Raises:
        InvalidArgument: some rows have none.
    """
    values: list[Any] = column.to_pylist()
    if any(value is None for value in values):
        raise InvalidArgument.of(name, "the target has rows without a value: leave them out")
    return values


def _target(column: Any, known: Sequence[Any], name: str) -> Array:
    values = present(column, name)
    if known:
        index = {value: number for number, value in enumerate(known)}
        return np.array([index[value] for value in values], dtype=np.int64)
    if isinstance(values[0], str):
        raise InvalidArgument.of(name, "the target is text, and this recipe learns numbers")
    return np.array(values, dtype=np.float64)


class _Encoder:
    """One column as numbers, by what the training part has."""

    def __init__(self, column: str, values: Any) -> None:
        self.column = column
        self._values: list[str] | None = None
        self._mean = 0.0
        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            self._values = sorted(pc.unique(values).drop_null().to_pylist())
            if len(self._values) > VALUES_MAX:
                raise InvalidArgument.of(
                    column, f"has {len(self._values)} different texts; {VALUES_MAX} at most"
                )
            self.features = [f"{column}={value}" for value in self._values]
        else:
            self.features = [column]
            self._mean = float(pc.mean(values.cast(pa.float64())).as_py() or 0.0)

    def __call__(self, values: Any) -> Array:
        if self._values is None:
            numbers = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
            filled: Array = np.where(np.isnan(numbers), self._mean, numbers)[:, None]
            return filled
        texts = np.array(values.to_pylist(), dtype=object)
        same: Array = texts[:, None] == np.array(self._values, dtype=object)[None, :]
        return same.astype(np.float64)


def parts(folder: Path, seed: int) -> tuple[pa.Table, pa.Table]:
    """The training part and the held-out part, as they are."""
    found = {path.stem: path for path in sorted(folder.rglob("*")) if path.suffix in FORMATS}
    if "train" in found and "test" in found:
        return read(found["train"]), read(found["test"])
    if len(found) != 1:
        raise InvalidArgument.of(
            "dataset",
            f"must hold train and test, or one table ({', '.join(FORMATS)}); it holds {sorted(found) or 'none'}",
        )
    whole = read(next(iter(found.values())))
    order = np.random.default_rng(seed).permutation(whole.num_rows)
    cut = round(whole.num_rows * (1 - HELD_OUT))
    return whole.take(pa.array(np.sort(order[:cut]))), whole.take(pa.array(np.sort(order[cut:])))


def read(path: Path) -> pa.Table:
    """One file as a table."""
    try:
        if path.suffix == ".csv":
            return pyarrow.csv.read_csv(path)
        if path.suffix == ".parquet":
            return pyarrow.parquet.read_table(path)
        with np.load(path, allow_pickle=False) as arrays:
            x, y = arrays["x"], arrays["y"]
            x = x.reshape(len(x), -1)
            columns = {f"x{number}": x[:, number] for number in range(x.shape[1])}
            return pa.table({**columns, "y": y})
    except (pa.ArrowException, KeyError, ValueError, OSError) as error:
        raise InvalidArgument.of(path.name, f"cannot be read: {error}") from None


@dataclass(frozen=True)
class Scaling:
    """Zero mean and unit variance, as the training part has them."""

    mean_D: Array
    scale_D: Array

    @classmethod
    def of(cls, x_ND: Array, *, wanted: bool = True) -> "Scaling":
        """From the training part; nothing is changed where not `wanted`."""
        if not wanted:
            return cls(np.zeros(x_ND.shape[1]), np.ones(x_ND.shape[1]))
        deviation = x_ND.std(axis=0)
        return cls(x_ND.mean(axis=0), np.where(deviation > 0, deviation, 1.0))

    def __call__(self, x_ND: Array) -> Array:
        return (x_ND - self.mean_D) / self.scale_D
