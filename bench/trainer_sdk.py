"""What the SDK costs a training loop: a report of two metrics and a look whether to stop in each step.

Processor time, of the loop's own thread and of those beside it, next to that of the bare loop in the same process, and
of one that logs the same by Lightning Fabric, into its CSV file.
`platform` runs as a job of a stack and reports through the door; `local` needs no server.
"""

import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from lightning.fabric import Fabric
from lightning.fabric.loggers.csv_logs import CSVLogger

import aios.train
from bench import stack
from bench.report import Report

COST_MICROS_MAX = 50.0
TURNS, STEPS = 30, 100
SIZE = 320  # of a square matrix: its product takes about a millisecond on one core
FIGURES = "AIOS_OUTPUT_DIR"
LOOP = (sys.executable, "-m", "bench.trainer_sdk", "loop")


def loop() -> None:
    """The training process: prints its figures, and leaves them as its output where it has one."""
    matrix = np.random.default_rng(0).random((SIZE, SIZE))
    bare: list[float] = []
    in_loop: list[float] = []
    beside: list[float] = []
    fabrics: list[float] = []
    with aios.train.init() as run, tempfile.TemporaryDirectory() as logs:
        fabric = Fabric(accelerator="cpu", devices=1, loggers=CSVLogger(logs))
        run.restore()
        for turn in range(TURNS):
            bare.append(_turn(matrix, lambda step, loss: None)[0])

            def logged(step: int, loss: float, first: int = turn * STEPS) -> None:
                fabric.log_dict({"loss": loss, "accuracy": 0.5}, step=first + step)

            fabrics.append(_turn(matrix, logged)[1])

            def told(step: int, loss: float, first: int = turn * STEPS) -> None:
                run.report(first + step, loss=loss, accuracy=0.5)
                run.should_stop()

            _, calls, others = _turn(matrix, told)
            in_loop.append(calls)
            beside.append(others)
        if FIGURES not in os.environ:
            run.complete()
    names = {"bare": bare, "in_loop": in_loop, "beside": beside, "fabric": fabrics}
    figures = {name: statistics.median(seconds) / STEPS * 1e6 for name, seconds in names.items()}
    if folder := os.environ.get(FIGURES):
        Path(folder, "figures.json").write_text(json.dumps(figures))
    print(json.dumps(figures))


def _turn(matrix: np.ndarray, each: Callable[[int, float], None]) -> tuple[float, float, float]:
    """Seconds of processor time: of the work, of `each`, and of all other threads meanwhile."""
    calls = 0.0
    whole, own = time.process_time(), time.thread_time()
    for step in range(STEPS):
        loss = float((matrix @ matrix)[0, 0])
        began = time.thread_time()
        each(step, loss)
        calls += time.thread_time() - began
    own = time.thread_time() - own
    return own - calls, calls, time.process_time() - whole - own


def _local() -> dict[str, float]:
    """The figures of a process without a platform."""
    with tempfile.TemporaryDirectory() as folder:
        env = {name: value for name, value in os.environ.items() if not name.startswith("AIOS_")}
        env |= {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
        done = subprocess.run([*LOOP], cwd=folder, env=env, check=True, capture_output=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


async def _platform() -> dict[str, float]:
    """The figures of a job, once its points are seen to be all there."""
    with stack.running() as running, tempfile.TemporaryDirectory() as folder:
        code = Path(folder, "bench")
        shutil.copytree(Path(__file__).parent, code, ignore=shutil.ignore_patterns("*.pyc", "traces"))
        async with running.client() as client:
            submitted = await client.runs.submit({"command": list(LOOP)}, code=Path(folder))
            run = await client.runs.wait(submitted.name)
            if not run.outputs:
                raise RuntimeError(f"{run.name} ended as {run.state_reason}: {run.state_message}")
            (path,) = await client.datasets.pull(run.outputs, Path(folder, "outputs"))
            points = [point async for point in client.runs.metrics(run.name)]
            if len(points) != 2 * TURNS * STEPS:
                raise RuntimeError(f"{len(points)} points arrived")
            figures: dict[str, float] = json.loads(path.read_text())
            return figures


async def main() -> None:
    report = Report("trainer_sdk")
    for name, figures in (("local", _local()), ("platform", await _platform())):
        report.figure(f"{name}_bare_micros_a_step", figures["bare"])
        report.bar(f"{name}_cost_micros_a_step", figures["in_loop"], at_most=COST_MICROS_MAX)
        report.figure(f"{name}_fabric_micros_a_step", figures["fabric"])
        report.figure(f"{name}_beside_micros_a_step", figures["beside"])
    report.finish()


if __name__ == "__main__":
    if sys.argv[1:] == ["loop"]:
        loop()
    else:
        asyncio.run(main())
