"""Images of one size, unpacked, so that a batch of them is one array."""

import numpy as np
import pyarrow as pa
from PIL import Image

from aios.errors import InvalidArgument
from services.data.job import charts
from services.data.job.columns import Kind, of_kind, open_image, picture
from services.data.job.engine import Given, Told, over
from services.data.job.parts import Form, array_of, with_column
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
        pixels = over(work.engine, scaled, table.select([column]), size=size, mode=mode)
        made[name] = with_column(table, column, pixels.table[column], pixels.table.schema.field(column))
        for first, told in pixels.told:
            for row, why in told["unreadable"]:
                rejects.add(name, [first + row], why)
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


def scaled(piece: "pa.Table", given: Given) -> tuple["pa.Table", Told]:
    """A step: the images of the one column, of one size; those that cannot be read are black, and told."""
    [column], (width, height), mode = piece.column_names, given["size"], given["mode"]
    unpacked = pa.types.is_fixed_size_list(piece.schema.field(column).type)
    sources = array_of(piece, column) if unpacked else piece[column].to_pylist()
    made = np.zeros((piece.num_rows, height, width, *([3] if mode == "RGB" else [])), dtype=np.uint8)
    unreadable = []
    for row, source in enumerate(sources):
        try:
            opened = picture(source) if unpacked else open_image(source, "it")
        except InvalidArgument as error:
            unreadable.append([row, f"cannot be read: {error.message}"])
            continue
        made[row] = np.asarray(opened.convert(mode).resize((width, height), Image.Resampling.BILINEAR))
    return with_column(pa.table({}), column, made), {"unreadable": unreadable}
