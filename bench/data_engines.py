"""One step of a transform by each engine: every image of Fashion-MNIST scaled to 32 x 32, as `resize` does it.

In this process; on a Ray cluster of this machine with two workers (`pip install -r requirements/ray.lock`); by Daft's own
engine, which calls the same function (`pip install daft`). What is not installed is left out. All must make the same
bytes. Startup is what comes before the first piece: importing, connecting, and the first worker's own imports.
"""

import hashlib
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pyarrow as pa

from bench import fashion
from bench.report import Report
from services.data.job.engine import Engine, Local, over
from services.data.job.on_ray import Ray
from services.data.job.parts import Array, with_column
from services.data.job.transforms import resize
from tests.ray_cluster import TOKEN, RayDidNotStart, ray_cluster

GIVEN = {"size": [32, 32], "mode": "L"}
ROUNDS = 3
Scale = Callable[["pa.Table"], "pa.Table"]


def by_engine(engine: Engine) -> Scale:
    return lambda table: over(engine, resize.scaled, table, **GIVEN).table


def by_daft() -> Scale:
    """Daft's frames and its engine; the function is ours."""
    daft: Any = import_module("daft")
    kind = daft.DataType.fixed_size_list(daft.DataType.uint8(), 32 * 32)

    def scaled(column: Any) -> Any:
        values = column.to_arrow()
        field = pa.field("image", values.type, metadata={b"shape": b"28,28"})
        piece = pa.table([values], schema=pa.schema([field]))
        return resize.scaled(piece, GIVEN)[0]["image"].combine_chunks()

    called = daft.udf(return_dtype=kind)(scaled)

    def run(table: "pa.Table") -> "pa.Table":
        frame = daft.from_arrow(table)
        return frame.with_column("image", called(frame["image"])).to_arrow()

    return run


def digest(table: "pa.Table") -> str:
    values = table["image"].combine_chunks()
    array: Array = values.flatten().to_numpy(zero_copy_only=False)
    return hashlib.sha256(array.tobytes()).hexdigest()


def measure(report: Report, name: str, open_it: Callable[[], Scale], table: "pa.Table") -> str:
    began = time.monotonic()
    scale = open_it()
    scale(table.slice(0, 1))
    report.figure(f"{name}: startup, seconds", time.monotonic() - began)
    rates = []
    made = None
    for _ in range(ROUNDS):
        began = time.monotonic()
        made = scale(table)
        rates.append(table.num_rows / (time.monotonic() - began))
    report.figure(f"{name}: rows a second, best of {ROUNDS}", max(rates))
    return digest(made)


def on_ray(report: Report, table: "pa.Table") -> str:
    began = time.monotonic()
    with ray_cluster() as address, ExitStack() as opened:
        report.figure("ray: a cluster is up, seconds", time.monotonic() - began)

        def connect() -> Scale:
            return by_engine(opened.enter_context(closing(Ray(address, TOKEN))))

        return measure(report, "ray", connect, table)


def main() -> None:
    report = Report("data_engines")
    arrays, what = fashion.arrays()
    table = with_column(pa.table({}), "image", arrays["image"])
    report.say(f"{table.num_rows} images of {what}")
    found = {"local": measure(report, "local", lambda: by_engine(Local()), table)}
    if find_spec("ray"):
        try:
            found["ray"] = on_ray(report, table)
        except RayDidNotStart as error:
            report.say(f"ray: not measured: {error}")
    if find_spec("daft"):  # it imports Ray, which reads the token of a cluster when it is imported
        found["daft"] = measure(report, "daft", by_daft, table)
    report.bar("engines whose result differs", sum(each != found["local"] for each in found.values()), 0)
    report.finish()


if __name__ == "__main__":
    main()
