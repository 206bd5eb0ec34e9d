"""More rows for the training part, made of those that it has. The other parts stay as they are.

The same changes on the fly, without a version of their own: `aios.train.augment`. Source of SMOTE: Chawla et al., SMOTE:
Synthetic Minority Over-sampling Technique, JAIR 2002.
"""

import numpy as np
import pyarrow as pa

from aios.errors import InvalidArgument
from aios.train import augment
from services.data.job import charts
from services.data.job.columns import Kind, kind_of, labels, numbers, of_kind, texts
from services.data.job.parts import Array, array_of, with_column
from services.data.job.work import Result, Work

MADE = "_made"
"""Whether a row was made, or was there."""


def run(work: Work) -> Result:
    """Add `copies` changed copies of each row; with `smote`, as many rows as every class lacks."""
    training, method = work.training, work.parameters["method"]
    table = work.source.parts[training]
    made = _smote(work, table) if method == "smote" else _copies(work, table, method)
    before = with_column(table, MADE, np.zeros(table.num_rows, dtype=np.int8))
    added = with_column(made, MADE, np.ones(made.num_rows, dtype=np.int8))
    parts = dict(work.source.parts)
    parts[training] = pa.concat_tables([before, added]).combine_chunks()
    summary = {"method": method, "part": training, "rows": table.num_rows, "made": made.num_rows}
    sections = [charts.table(["", ""], list(summary.items()))]
    return Result(f"Augmented: {made.num_rows} rows made", summary, sections, parts)


def _copies(work: Work, table: "pa.Table", method: str) -> "pa.Table":
    strength = float(work.parameters["strength"])
    wanted = {"images": Kind.IMAGE, "rand_augment": Kind.IMAGE, "text": Kind.TEXT, "series": Kind.VECTOR}[
        method
    ]
    columns = [each for each in work.columns() if each in of_kind(table, wanted)]
    if not columns:
        raise InvalidArgument.of("parameters.columns", f"names no column that {method} changes")
    found = []
    for copy in range(int(work.parameters["copies"])):
        changed = table
        for number, column in enumerate(columns):
            random = augment.generator(work.seed, copy, number)
            if wanted is Kind.TEXT:
                words = augment.words([each or "" for each in texts(table, column)], random, strength)
                changed = with_column(changed, column, pa.array(words, pa.string()))
                continue
            if not pa.types.is_fixed_size_list(table.schema.field(column).type):
                raise InvalidArgument.of(
                    f"parameters.columns.{column}", "holds files of images: resize it first"
                )
            batch = array_of(table, column)
            changed = with_column(changed, column, _changed(batch, random, method, strength))
        found.append(changed.cast(table.schema))
    return pa.concat_tables(found) if found else table.slice(0, 0)


def _changed(batch: Array, random: np.random.Generator, method: str, strength: float) -> Array:
    if method == "rand_augment":
        return augment.rand_augment(batch, random, strength=strength)
    if method == "series":
        return augment.series(batch, random, noise=strength / 2, scale=strength)
    pixels = round(strength * min(batch.shape[1:3]) / 2)
    return augment.images(batch, random, crop=pixels, brightness=strength / 2, contrast=strength / 2)


def _smote(work: Work, table: "pa.Table") -> "pa.Table":
    """Rows of the rarer classes, each between one row and one of its nearest of the same class."""
    from sklearn.neighbors import NearestNeighbors

    target = work.require("target", work.parameters["target"])
    y, known = labels(table, target)
    columns = [each for each in work.columns() if each != target and kind_of(table, each) is Kind.NUMBER]
    if not columns:
        raise InvalidArgument.of("parameters.columns", "names no column of numbers")
    x_ND = np.stack([numbers(table, each) for each in columns], axis=1)
    if not np.isfinite(x_ND).all():
        raise InvalidArgument.of("parameters.columns", "has rows without a value: clean them first")
    spread = np.where(x_ND.std(axis=0) > 0, x_ND.std(axis=0), 1)
    counts = np.bincount(y[y >= 0], minlength=len(known))
    found = [table.slice(0, 0)]
    for number in range(len(known)):
        rows, lacking = np.flatnonzero(y == number), int(counts.max() - counts[number])
        if not lacking or len(rows) < 2:
            continue
        random = augment.generator(work.seed, number)
        near = min(int(work.parameters["neighbours"]) + 1, len(rows))
        neighbours = NearestNeighbors(n_neighbors=near).fit(x_ND[rows] / spread)
        ranked = neighbours.kneighbors(x_ND[rows] / spread, return_distance=False)
        one = random.integers(len(rows), size=lacking)
        other = ranked[one, random.integers(1, near, lacking)]
        x = x_ND[rows[one]] + random.random((lacking, 1)) * (x_ND[rows[other]] - x_ND[rows[one]])
        made = table.take(pa.array(rows[one]))
        for index, column in enumerate(columns):
            kind = table.schema.field(column).type
            values = np.rint(x[:, index]) if pa.types.is_integer(kind) else x[:, index]
            made = made.set_column(
                made.column_names.index(column), table.schema.field(column), pa.array(values).cast(kind)
            )
        found.append(made)
    return pa.concat_tables(found)
