"""A model version made smaller or faster: the steps of a plan, or a search for a goal, and a verdict.

The result is registered whatever the verdict; one that missed a limit is registered as rejected, so that no alias can
name it and `latest` never means it. The report says what was measured, with the recipe that makes it again.
Formulas and sources are with each technique, in `services.trainer.optimize`. Model: the original's inputs and outputs.
"""

import json
import shutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from aios.train import Run
from services.trainer.job.outputs import MODEL_FILE
from services.trainer.job.result import NETWORK_FILE
from services.trainer.optimize import (
    attack,
    curve,
    lm,
    networks,
    pipeline,
    report,
    search,
    serving,
    task,
    verdict,
)
from services.trainer.optimize.pipeline import Original, Variant
from services.trainer.optimize.verdict import Side, Verdict


def train(run: Run) -> None:
    """Make it, measure it, judge it, hand it over."""
    plan = run.hparams
    torch.set_num_threads(plan["threads"])
    torch.manual_seed(run.seed)
    with run.phase("fetch"):
        folder, signature = run.base_model()
    if lm.is_one(folder):
        # Not above: its libraries take seconds to import.
        import_module("services.trainer.optimize.lm.pipeline").optimize(run, folder, signature)
        return
    with run.phase("load"):
        original = Original(folder, task.model_file(folder), task.load(run.files(), signature, run.seed))
    scratch = run.folder("variants")
    tried: list[dict[str, Any]] = []
    if "search" in plan:
        with run.phase("search", plan["search"]["trials"]):
            chosen, tried = search.best(run, original, plan, scratch)
    else:
        with run.phase("optimise"):
            print("steps:", flush=True)
            chosen = pipeline.make(original, plan["steps"], scratch / "variant")
    with run.phase("measure"):
        found = _judge(run, original, chosen, scratch)
    if plan["attack_samples"]:
        with run.phase("attack"):
            found = replace(found, attacked=_attacked(original, chosen, plan["attack_samples"]))
    points: list[dict[str, float]] = []
    if curve.staged(chosen):
        with run.phase("curve"):
            points = curve.measure(original, chosen, plan, scratch)
    print(report.log(found), flush=True)
    outputs = run.folder("outputs")
    told = {**found.told(), "steps": chosen.steps, "words": chosen.words, "tried": tried, "curve": points}
    told |= {"calibration_sha256": chosen.calibration, "where": serving.WHERE}
    told |= {"rows": report.rows(found), "said": report.said(found)}
    (outputs / report.VERDICT_FILE).write_text(json.dumps(told, indent=1))
    title = f"{run.spec.base_model or original.folder.name}: {chosen.words}"
    (outputs / report.REPORT_FILE).write_text(report.html(title, chosen, found, tried, points))
    card = report.card(run.spec.base_model, run.spec.dataset, chosen, found)
    rejected = "" if found.passed else "it " + "; it ".join(found.missed)
    version = run.complete(
        chosen.folder, chosen.signature, found.metrics, outputs, card=card, rejected=rejected
    )
    print(f"registered as {version or 'nothing: the run names no model'}", flush=True)


def _judge(run: Run, original: Original, chosen: Variant, scratch: Path) -> Verdict:
    threads, given = run.hparams["threads"], original.task
    base = scratch / "original"
    base.mkdir()
    shutil.copy(original.file, base / MODEL_FILE)
    models = {"original": (base, given.signature), "variant": (chosen.folder, chosen.signature)}
    seconds = run.hparams["measure_seconds"]
    served = serving.measure(models, given.test.inputs, scratch, seconds=seconds, threads=threads)
    tuned = pipeline.tuned_original(original, chosen.trained, scratch / "tuned")
    return verdict.judge(
        Side.of("original", original.file, given, threads),
        Side.of(chosen.words, chosen.file, given, threads),
        Side.of("the original, trained as long", tuned.file, given, threads) if tuned else None,
        served,
        run.hparams["limits"],
    )


def _attacked(original: Original, chosen: Variant, samples: int) -> dict[str, tuple[float, float]]:
    """Accuracy under attack of both; nothing where one has no network that could be attacked."""
    folders = (original.folder, chosen.folder)
    if not original.task.images or not all((folder / NETWORK_FILE).is_file() for folder in folders):
        return {}
    before, after = (networks.load(folder).module for folder in folders)
    test = original.task.test
    return {
        name: (attack.accuracy(before, test, size, samples), attack.accuracy(after, test, size, samples))
        for name, size in attack.EPSILONS.items()
    }
