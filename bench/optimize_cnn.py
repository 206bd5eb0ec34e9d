"""What each technique costs and gains on Fashion-MNIST: `python -m bench.optimize_cnn [SEEDS] [PART ...]`.

Parts: the names of PLANS, all where none is given, and search. Data: Debian's package dataset-fashion-mnist. Each seed
trains a base of its own, three epochs of the recipe `image_classifier`; figures are means over the seeds with half the
width of their 95% interval (Student's t). Fine-tuning sees 15,000 samples; what an original gains by the same is printed
beside it. Latency is through Triton.

Bases and figures are kept under build/bench/optimize_cnn, one folder a seed below one for the code that made them
(`bench.code_digest`): what was stopped goes on where it was, and what other code or other steps made is made again.
"""

import json
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from google.protobuf.json_format import ParseDict
from scipy import stats

from aios.common.v1 import tensor_pb2
from aios.train import Run
from aios.train.local import Local
from aios.trainer.v1 import run_pb2
from bench import code_digest, fashion
from bench.report import Report
from services.trainer import catalog, optimization
from services.trainer.optimize import attack, networks, pipeline, serving, task
from services.trainer.optimize.pipeline import Original, Variant
from services.trainer.optimize.verdict import Side
from services.trainer.recipes import image_classifier, optimize

SEEDS = 5
KEPT = Path("build/bench/optimize_cnn") / code_digest.sha256()[:12]
ATTACKED = 1_000
BASE = {"epochs": 3, "precision": "bfloat16", "shift_pixels": 0, "mirror": True, "learning_rate": 0.003}
TUNED = {"fine_tune": {"epochs": 1, "samples": 15_000}}
STUDENT = {"smaller": 16.0, "epochs": 6, "samples": 15_000}
PLANS: Mapping[str, Sequence[Any]] = {
    "tuned": [TUNED],
    "int8": ["int8_static"],
    "svd_17": [{"svd": {"rank": "budget", "keep": 0.17}}],
    "svd_17_512": [{"svd": {"rank": "budget", "keep": 0.17, "samples": 512}}],
    "svd_17_plain": [{"svd": {"rank": "budget", "keep": 0.17, "aware": False}}],
    "svd_11_tuned": [{"svd": {"rank": "budget", "keep": 0.11}}, TUNED],
    "svd_11_512_tuned": [{"svd": {"rank": "budget", "keep": 0.11, "samples": 512}}, TUNED],
    "pruned_50_tuned": [{"prune": {"share": 0.5}}, {"fine_tune": {"epochs": 2, "samples": 15_000}}],
    "hardened": [{"harden": {"epochs": 1, "samples": 15_000}}],
    "student": [{"distill": STUDENT}],
    "student_alone": [{"distill": {**STUDENT, "weight": 0.0}}],
    "qat": [{"qat": {"samples": 2_000}}],
    "early_exit": [{"early_exit": {"after": 1, "samples": 2_000}}],
}
GOAL = {"points_lost": 0.5, "smaller": 3.0, "slower": 1.0}


def main() -> None:
    """Print each figure as it is known."""
    report = Report("optimize_cnn")
    seeds = next((int(word) for word in sys.argv[1:] if word.isdigit()), SEEDS)
    parts = [word for word in sys.argv[1:] if not word.isdigit()] or [*PLANS, "search"]
    plans = {name: PLANS[name] for name in parts if name != "search"}
    torch.set_num_threads(1)
    report.figure("seeds", seeds)
    with tempfile.TemporaryDirectory(prefix="bench-optimize-") as folder:
        root = Path(folder)
        report.say(f"data: {fashion.write(root / 'data')}")
        found: dict[str, list[float]] = {}
        for seed in range(seeds if plans else 1):
            original = _original(_base(root, seed), root / "data", seed)
            for name, value in _techniques(report, original, plans, root / f"made-{seed}").items():
                found.setdefault(name, []).append(value)
        _tell(report, found)
        if "search" in parts:
            _search(report, root, _base(root, 0))
    report.finish()


def _base(root: Path, seed: int) -> Path:
    """The run that trained a seed's base, now or before."""
    kept = KEPT / f"seed-{seed}" / "base"
    if not kept.is_dir():
        home = _train(root / f"base-{seed}", root / "data", seed)
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(home, kept.with_name("base.part"), dirs_exist_ok=True)
        kept.with_name("base.part").rename(kept)
    return kept


def _techniques(
    report: Report, original: Original, plans: Mapping[str, Sequence[Any]], scratch: Path
) -> dict[str, float]:
    """Figures of one seed by their names: those that are known, then those that are not."""
    scratch.mkdir()
    seed = original.task.seed
    file = KEPT / f"seed-{seed}" / "figures.json"
    known: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    base = Side.of("original", original.file, original.task, 1)
    for name, given in plans.items():
        steps = optimization.read_steps(list(given))
        if known.get(name, {}).get("steps") != steps:
            began = time.monotonic()
            torch.manual_seed(seed)
            made = pipeline.make(original, steps, scratch / name)
            figures = _figures(name, base, made, original, scratch)
            known[name] = {"steps": steps, "figures": figures}
            file.write_text(json.dumps(known, indent=1))
            report.say(f"seed {seed}: {name} made in {time.monotonic() - began:.0f} s")
        report.say(f"seed {seed}: {name} {known[name]['figures'][name]:.2f}")
    found = {"base": base.accuracy.value * 100}
    for name in plans:
        found |= known[name]["figures"]
    if {"student", "student_alone"} <= plans.keys():
        found["student_gain"] = found["student"] - found["student_alone"]
    return found


def _figures(name: str, base: Side, made: Variant, original: Original, scratch: Path) -> dict[str, float]:
    side = Side.of(name, made.file, original.task, 1)
    found = {
        name: side.accuracy.value * 100,
        f"{name}_lost": (base.accuracy.value - side.accuracy.value) * 100,
        f"{name}_parameters": side.size.parameters / base.size.parameters,
        f"{name}_macs": side.size.macs / base.size.macs,
        f"{name}_smaller": base.size.bytes / side.size.bytes,
    }
    if name == "hardened":
        for which, folder in {"base": original.folder, name: made.folder}.items():
            module = networks.load(folder).module
            for size, epsilon in attack.EPSILONS.items():
                share = attack.accuracy(module, original.task.test, epsilon, ATTACKED)
                found[f"{which}_attacked_{size.replace('/', '_')}"] = share * 100
        found["hardened_gain_8_255"] = found["hardened_attacked_8_255"] - found["base_attacked_8_255"]
    if name == "int8":
        found |= _through_triton(original, made, scratch)
    return found


def _through_triton(original: Original, int8: Variant, scratch: Path) -> dict[str, float]:
    served = serving.measure(
        {
            "original": (original.folder, original.task.signature),
            "int8": (int8.folder, int8.signature),
            "float16": _converted(original, scratch),
        },
        original.task.test.inputs,
        scratch,
        seconds=4.0,
        threads=1,
    )
    found = {}
    for name in ("int8", "float16"):
        for batch in serving.BATCHES:
            found[f"{name}_times_as_long_{batch}"] = served[name].times(served["original"], batch)
    offline = task.answers(int8.file, original.task.test.inputs[: serving.ANSWERS], 1)
    found["int8_numerics"] = float(np.abs(served["int8"].answers - offline).max())
    found["int8_same_class"] = float((served["int8"].answers.argmax(1) == offline.argmax(1)).mean())
    return found


def _converted(original: Original, scratch: Path) -> tuple[Path, tensor_pb2.Signature]:
    made = pipeline.make(original, optimization.read_steps(["float16"]), scratch / "float16")
    return made.folder, made.signature


def _tell(report: Report, found: Mapping[str, Sequence[float]]) -> None:
    means = {name: float(np.mean(values)) for name, values in found.items()}
    bars: Mapping[str, dict[str, float]] = {
        "base": {"at_least": 91.7},
        "int8_lost": {"at_most": 0.3},
        "int8_smaller": {"at_least": 3.8},
        "int8_times_as_long_32": {"at_most": 1.0},
        "svd_17_lost": {"at_most": 1.0},
        "svd_17_parameters": {"at_most": 0.171},
        "svd_11_tuned_lost": {"at_most": 1.5},
        "svd_11_tuned_parameters": {"at_most": 0.111},
        "pruned_50_tuned_lost": {"at_most": 2.0},
        "pruned_50_tuned_macs": {"at_most": 0.27},
        "hardened_lost": {"at_most": 4.0},
        "hardened_gain_8_255": {"at_least": 15.0},
        "student_gain": {"at_least": 0.4},
        "student_parameters": {"at_most": 1 / 16},
    }
    for name, values in found.items():
        if name in bars:
            report.bar(name, means[name], **bars[name])
        else:
            report.figure(name, means[name])
        if len(values) > 1 and (name.endswith("lost") or name == "student_gain"):
            spread = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
            report.figure(f"{name}_plus_minus", float(spread))


def _search(report: Report, root: Path, base: Path) -> None:
    """The goal of the CNN: within ten minutes on two cores."""
    began = time.monotonic()
    plan = optimization.read({"search": {"trials": 10, "seconds": 420}, "limits": GOAL, "measure_seconds": 2})
    home = _run("optimize", root / "search", {"dir": root / "data", "base": base}, plan, 0)
    verdict = json.loads((home / "outputs" / "verdict.json").read_text())
    for each in verdict["tried"]:
        mark = "front" if each["front"] else "     "
        report.say(
            f"{mark} {each['words']}: {each['points_lost']:.2f} points, {each['bytes_share']:.3f}x bytes, "
            f"{each['times_as_long']:.2f}x latency"
        )
    report.say(f"chosen: {verdict['words']}: {verdict['said']}")
    report.bar("search_minutes", (time.monotonic() - began) / 60, 10.0)
    report.bar("search_points_lost", verdict["points_lost"], 0.5)
    report.bar("search_smaller", verdict["smaller"], at_least=3.0)
    report.bar("search_times_as_long_32", verdict["times_as_long"]["32"], 1.0)


def _train(folder: Path, data: Path, seed: int) -> Path:
    settings = catalog.hyperparameters("image_classifier", BASE)
    return _run("image_classifier", folder, {"dir": data}, settings, seed)


def _run(recipe: str, folder: Path, data: Mapping[str, Path], settings: Mapping[str, Any], seed: int) -> Path:
    spec = run_pb2.RunSpec(recipe=recipe, seed=seed)
    spec.hyperparameters.update(dict(settings))
    home = Local(folder, spec, data)
    train = {"image_classifier": image_classifier.train, "optimize": optimize.train}[recipe]
    train(Run(home, threading.Event(), {}))
    home.close()
    return folder


def _original(home: Path, data: Path, seed: int) -> Original:
    signature = ParseDict(json.loads((home / "model.json").read_text())["signature"], tensor_pb2.Signature())
    file = home / "model" / "model.onnx"
    return Original(home / "model", file, task.load(data, signature, seed))


if __name__ == "__main__":
    main()
