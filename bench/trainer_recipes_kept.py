"""Runs of recipes in this process, whose figures are kept: a bench that was ended goes on where it was.

A figure is kept in build/bench/trainer_recipes by recipe, data, seed, settings and the code that made it
(`bench.code_digest`), so that none of other code than today's is ever shown. SIGTERM saves a checkpoint of the run that it
interrupts.
"""

import hashlib
import json
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.json_format import MessageToDict
from scipy import stats

from aios.client import signatures
from aios.train import Run
from aios.train.local import Local
from aios.trainer.v1 import run_pb2
from bench import code_digest
from bench.report import Report
from services.trainer import catalog

SEEDS = 3
KEPT = Path("build/bench/trainer_recipes")


def train(
    recipe: str, data: Path | None, seed: int, folder: Path, *, base: Path | None = None, **given: Any
) -> dict[str, float]:
    """The final figures of a recipe's run in a folder, where it goes on if it began there.

    Args:
        base: A model's directory that the run starts from.
    """
    spec = run_pb2.RunSpec(recipe=recipe, seed=seed)
    spec.hyperparameters.update(catalog.hyperparameters(recipe, given))
    with tempfile.TemporaryDirectory() as based:
        named = {"dir": data} if data else {}
        if base is not None:
            named["base"] = Path(based)
            (named["base"] / "model").symlink_to(base)
            described = {"signature": MessageToDict(signatures.of_directory(base))}
            (named["base"] / "model.json").write_text(json.dumps(described))
        home = Local(folder, spec, named)
        stopping = threading.Event()
        before = signal.signal(signal.SIGTERM, lambda *_: stopping.set())
        try:
            import_module(f"services.trainer.recipes.{recipe}").train(Run(home, stopping, {}))
        finally:
            signal.signal(signal.SIGTERM, before)
            home.close()
    found: dict[str, float] = json.loads((folder / "model.json").read_text())["metrics"]
    return found


def kept(
    recipe: str, what: str, data: Path | None, settings: Mapping[str, Any], *, base: Path | None = None
) -> Callable[[int], dict[str, float]]:
    """The figures of a seed: as they were found before, else trained now.

    Args:
        what: The data, in a word.
    """

    def figures(seed: int) -> dict[str, float]:
        name = f"{recipe} on {what}, seed {seed}, {_digest(recipe, settings)}"
        known = KEPT / f"{name}.json"
        if not known.is_file():
            found = train(recipe, data, seed, KEPT / name, base=base, **settings)
            known.write_text(json.dumps(found, indent=1, sort_keys=True))
            shutil.rmtree(KEPT / name)
        read: dict[str, float] = json.loads(known.read_text())
        return read

    return figures


def over_seeds(
    report: Report, name: str, metric: str, each: Callable[[int], dict[str, float]], scale: float = 1.0
) -> list[float]:
    """A metric over the seeds, said with its mean and the 95% interval of that (Student's t)."""
    values = []
    for seed in range(SEEDS):
        values.append(each(seed)[metric] * scale)
        report.say(f"{name}, seed {seed}: {values[-1]:.4f}")
    half = stats.t.ppf(0.975, SEEDS - 1) * np.std(values, ddof=1) / np.sqrt(SEEDS)
    report.say(f"{name}: mean {np.mean(values):.4f} ± {half:.4f}")
    report.figure(f"{name}_interval", float(half))
    return values


def _digest(recipe: str, settings: Mapping[str, Any]) -> str:
    said = json.dumps(catalog.hyperparameters(recipe, settings), sort_keys=True)
    return hashlib.sha256(f"{code_digest.sha256()} {said}".encode()).hexdigest()[:12]
