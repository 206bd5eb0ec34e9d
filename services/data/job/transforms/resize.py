"""Images of one size, unpacked, so that a batch of them is one array."""

import numpy as np
import pyarrow as pa
from PIL import Image

from aios.errors import InvalidArgument
from services.data.job import charts
from services.data.job.columns import Kind, of_kind, open_image, picture
from services.data.job.parts import Array, Form, array_of, with_column
from services.data.job.rejects import Rejects
from services.data.job.work import Result, Work


def run(work: Work) -> Result:
    """Scale every image; one that cannot be read is put aside."""
    size = int(work.parameters["width"]), int(work.parameters["height"])
    mode = "L" if work.parameters["colours"] == "grey" else "RGB"
    first = work.source.parts[work.training]
    found = of_kind(first, Kind.IMAGE)
    if not found:
        raise InvalidArgument.of("input", "has no column of images")
    column, rejects = found[0], Rejects(work.source.parts)
    made = {}
    for name, table in work.source.parts.items():
        pixels = _scaled(table, column, size, mode, name, rejects)
        made[name] = with_column(table, column, pixels)
    kept, aside = rejects.divide(made)
    # What could not be read stays as it was, for who looks into it.
    aside = {
        name: with_column(each, column, work.source.parts[name][column].take(each["_row"]).combine_chunks())
        for name, each in aside.items()
        if each.num_rows
    }
    shape = "x".join(map(str, (size[1], size[0], *([3] if mode == "RGB" else []))))
    summary = {
        "shape": shape,
        "rows": {name: each.num_rows for name, each in kept.items()},
        "quarantined": rejects.counts(),
    }
    sections = [charts.table(["part", "images"], list(summary["rows"].items()))]  # type: ignore[attr-defined]
    form = work.source.form if work.source.form is Form.NPY else Form.SHARDS
    return Result(f"Images of {shape}", summary, sections, kept, aside, form=form)


def _scaled(
    table: "pa.Table", column: str, size: tuple[int, int], mode: str, part: str, rejects: Rejects
) -> Array:
    unpacked = pa.types.is_fixed_size_list(table.schema.field(column).type)
    sources = array_of(table, column) if unpacked else table[column].to_pylist()
    made = np.zeros((table.num_rows, size[1], size[0], *([3] if mode == "RGB" else [])), dtype=np.uint8)
    for row, source in enumerate(sources):
        try:
            opened = picture(source) if unpacked else open_image(source, "it")
        except InvalidArgument as error:
            rejects.add(part, [row], f"cannot be read: {error.message}")
            continue
        made[row] = np.asarray(opened.convert(mode).resize(size, Image.Resampling.BILINEAR))
    return made
