"""A goal instead of steps: combinations are tried under a budget, and the Pareto front is kept.

Each trial proposes a way to take weights out (none, svd, prune), with fine-tuning where there is one, and a precision.
Optuna's multi-objective TPE (Ozaki et al. 2020) proposes what may dominate: points lost on the validation part, bytes,
and latency through Triton over the original's, asked in turns with it. The winner is the fastest trial that keeps every
limit; where none does, the one that misses them by least. It is judged anew on the test part.
"""

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from aios.train import Run
from services.trainer.job.outputs import MODEL_FILE
from services.trainer.job.result import NETWORK_FILE
from services.trainer.optimization import read_steps
from services.trainer.optimize import pipeline, serving, task
from services.trainer.optimize.pipeline import Original, Variant

FINE_TUNE = {"epochs": 1, "samples": 15_000, "learning_rate": 0.001}
MEASURE_SECONDS = 0.8
START = ({"remove": "none", "alone": "int8_static"}, {"remove": "none", "alone": "float16"})
"""Tried first: they cost no training."""


def best(
    run: Run, original: Original, plan: Mapping[str, Any], scratch: Path
) -> tuple[Variant, list[dict[str, Any]]]:
    """The winner, and every trial with whether it is on the front."""
    trainable = (original.folder / NETWORK_FILE).is_file()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        directions=["minimize"] * 3, sampler=optuna.samplers.TPESampler(seed=run.seed, n_startup_trials=4)
    )
    for each in START:
        study.enqueue_trial(each)
    budget, until = plan["search"], time.monotonic() + plan["search"]["seconds"]
    before = _accuracy(original, original.file, plan["threads"])
    base = scratch / "searched"
    base.mkdir()
    shutil.copy(original.file, base / MODEL_FILE)
    variants: list[Variant] = []
    tried: list[dict[str, Any]] = []
    for number in range(budget["trials"]):
        if tried and time.monotonic() > until:
            print(f"the budget of {budget['seconds']:g} s is spent", flush=True)
            break
        if run.should_stop():
            run.leave()
        trial = study.ask()
        steps = _steps(trial, trainable=trainable)
        print(f"trial {number + 1}", flush=True)
        variant = pipeline.make(original, steps, scratch / f"trial-{number}")
        served = serving.measure(
            {
                "original": (base, original.task.signature),
                "variant": (variant.folder, variant.signature),
            },
            original.task.validation.inputs,
            scratch,
            seconds=MEASURE_SECONDS,
            threads=plan["threads"],
            batches=[plan["limits"]["batch"]],
        )
        (batch,) = served["variant"].batches
        figures = {
            "points_lost": (before - _accuracy(original, variant.file, plan["threads"])) * 100,
            "bytes_share": variant.file.stat().st_size / original.file.stat().st_size,
            "times_as_long": served["variant"].times(served["original"], batch),
        }
        p95 = float(served["variant"].batches[batch]["p95_ms"])
        study.tell(trial, list(figures.values()))
        variants.append(variant)
        tried.append({"words": variant.words, **figures, "p95_ms": p95})
        run.report(number + 1, **figures)
        print("  " + ", ".join(f"{key} {value:.3f}" for key, value in figures.items()), flush=True)
    front = {trial.number for trial in study.best_trials}
    for number, one in enumerate(tried):
        one["front"] = number in front
    order = sorted(range(len(tried)), key=lambda each: _order(tried[each], plan["limits"]))
    return variants[order[0]], tried


def _steps(trial: "optuna.Trial", *, trainable: bool) -> Sequence[Mapping[str, Any]]:
    steps: list[dict[str, Any]] = []
    remove = trial.suggest_categorical("remove", ["none", "svd", "prune"] if trainable else ["none"])
    if remove == "svd":
        steps.append({"svd": {"rank": "budget", "keep": trial.suggest_float("keep", 0.1, 0.7, log=True)}})
    elif remove == "prune":
        steps.append({"prune": {"share": trial.suggest_float("share", 0.1, 0.6)}})
    if remove != "none":
        steps.append({"fine_tune": FINE_TUNE})
    precisions = ["int8_static", "float16", "float32"] if steps else ["int8_static", "float16"]
    precision = trial.suggest_categorical("precision" if steps else "alone", precisions)
    if precision != "float32":
        steps.append({precision: {}})
    return read_steps(steps)


def _order(one: Mapping[str, Any], limits: Mapping[str, float]) -> tuple[float, float, float]:
    """Smaller is better: what is missed by, then the latency, then the size."""
    shares = [
        max(0.0, one["points_lost"] - limits["points_lost"]),
        max(0.0, limits["smaller"] * one["bytes_share"] - 1),
        max(0.0, one["times_as_long"] - limits["slower"]),
    ]
    if limits["p95_ms"]:
        shares.append(max(0.0, one["p95_ms"] / limits["p95_ms"] - 1))
    return float(np.sum(shares)), one["times_as_long"], one["bytes_share"]


def _accuracy(original: Original, file: Path, threads: int) -> float:
    held = original.task.validation
    return float((task.answers(file, held.inputs, threads).argmax(1) == held.labels_N.numpy()).mean())
