"""What may go wrong with a model version: attacks on it, what it gives away, what its data may hide.

Evasion, membership inference and signs of poisoning, as `services.trainer.assess` has them with their sources, in one
report. Model: a classifier of one FP32 input; nothing is registered, the version stays as it is. Figures: `accuracy`,
`accuracy_attacked` (the worst attack at the largest ε), `membership_auc`, `membership_advantage`, `suspicious_samples`.
"""

import csv
import json
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from aios.train import Run
from services.trainer.assess import evasion, membership, poison
from services.trainer.assess.evasion import Curve
from services.trainer.assess.membership import Leak
from services.trainer.assess.poison import Found
from services.trainer.job import loop, plots
from services.trainer.job.result import NETWORK_FILE
from services.trainer.optimize import networks, task
from services.trainer.optimize.task import Split, Task

REPORT_FILE, FIGURES_FILE, SAMPLES_FILE = "report.html", "assessment.json", "suspicious.csv"
CLASSES_SHOWN = 4


def train(run: Run) -> None:
    """Look, and report."""
    settings = loop.prepare(run)
    with run.phase("load"):
        folder, signature = run.base_model()
        file = task.model_file(folder)
        given = task.load(run.files(), signature, run.seed)
        module = networks.load(folder).module if (folder / NETWORK_FILE).is_file() else None
    curves = []
    if given.images:
        with run.phase("attack"):
            curves = _attack(run, file, module, given)
    with run.phase("membership"):
        leak = _membership(file, given, settings["threads"])
    found = []
    if module is not None:
        with run.phase("poison"):
            inputs = given.train.inputs
            labels_N = given.train.labels_N.numpy()
            seen_ND = poison.activations(module, inputs)
            found = poison.look(seen_ND, inputs.flatten(1).numpy(), labels_N, run.seed)
    outputs = run.folder("outputs")
    figures = _figures(curves, leak, found)
    said = {
        "figures": figures,
        "evasion": [_told(asdict(each)) for each in curves],
        "membership": asdict(leak),
        "suspicious": [
            {
                "class": given.classes[each.label],
                "clustered": len(each.clustered),
                "outlying": len(each.outlying),
            }
            for each in found
        ],
    }
    (outputs / FIGURES_FILE).write_text(json.dumps(said, indent=1))
    _write_samples(outputs / SAMPLES_FILE, given, found)
    title = f"Assessment of {run.spec.base_model or folder.name}"
    (outputs / REPORT_FILE).write_text(_html(title, given, curves, leak, found, trained=module is not None))
    run.complete(None, None, figures, outputs)
    print(", ".join(f"{name} {value:.4g}" for name, value in figures.items()), flush=True)


def _attack(run: Run, file: Path, module: nn.Module | None, given: Task) -> list[Curve]:
    settings = run.hparams
    some = Split(given.test.inputs[: settings["samples"]], given.test.labels_N[: settings["samples"]])
    if module is None:
        found = [evasion.black_box(file, some, settings["epsilon"], settings["threads"])]
    else:
        found = list(evasion.curves(module, some, settings["epsilon"], strong=settings["strong"]))
    for each in found:
        print(f"  {each.name}: {each.accuracy[-1]:.2%} at {evasion.said(settings['epsilon'])}", flush=True)
    return found


def _membership(file: Path, given: Task, threads: int) -> Leak:
    members = given.train
    count = min(len(members.inputs), len(given.test.inputs))
    chosen = torch.randperm(len(members.inputs), generator=torch.Generator().manual_seed(given.seed))[:count]
    return membership.measure(
        task.probabilities(task.answers(file, members.inputs[chosen], threads)),
        members.labels_N[chosen].numpy(),
        task.probabilities(task.answers(file, given.test.inputs, threads)),
        given.test.labels_N.numpy(),
    )


def _figures(curves: list[Curve], leak: Leak, found: list[Found]) -> dict[str, float]:
    figures = {"membership_auc": leak.auc, "membership_advantage": leak.advantage}
    if curves:
        figures["accuracy"] = float(curves[0].accuracy[0])
        figures["accuracy_attacked"] = min(float(each.accuracy[-1]) for each in curves)
    if found:
        figures["suspicious_samples"] = float(len(_suspicious(found)))
    return figures


def _suspicious(found: list[Found]) -> dict[int, set[str]]:
    """Training samples by their number in the task, with what named them."""
    named: dict[int, set[str]] = {}
    for each in found:
        for why, samples in (("cluster", each.clustered), ("spectral", each.outlying)):
            for sample in samples:
                named.setdefault(sample, set()).add(why)
    return named


def _write_samples(path: Path, given: Task, found: list[Found]) -> None:
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["row", "class", "named_by"])
        for sample, why in sorted(_suspicious(found).items()):
            label = given.classes[int(given.train.labels_N[sample])]
            lines.writerow([int(given.rows_N[sample]), label, " and ".join(sorted(why))])


def _html(
    title: str, given: Task, curves: list[Curve], leak: Leak, found: list[Found], *, trained: bool
) -> str:
    parts = ["<h2>Inputs chosen against it</h2>"]
    if curves:
        parts += [
            plots.lines(
                "Accuracy under attack",
                "largest change of a value, ε",
                "accuracy",
                [(each.name, each.epsilons, each.accuracy) for each in curves],
            ),
            plots.table(
                ["attack", *(evasion.said(size) for size in curves[0].epsilons)],
                [[each.name, *_row(each, curves[0])] for each in curves],
            ),
        ]
    else:
        parts.append("<p>Only images are attacked: values of a table have no common scale.</p>")
    parts += [
        "<h2>What it gives away of its training data</h2>",
        f"<p>{leak.samples:,} samples that it was trained on against as many that it was not.</p>",
        plots.table(
            ["membership inference", ""],
            [
                ("AUC (0.5: nothing)", f"{leak.auc:.4f} [{leak.low:.4f}, {leak.high:.4f}]"),
                ("advantage", f"{leak.advantage:.4f}"),
                ("true positives at 1% false ones", f"{leak.tpr_at_low_fpr:.2%}"),
            ],
        ),
        "<h2>Signs of poisoned training data</h2>",
    ]
    if not trained:
        parts.append("<p>Not looked for: the version holds no weights, only its exported form.</p>")
        return plots.page(title, *parts)
    rows = [
        (
            given.classes[each.label],
            each.samples,
            len(each.outlying),
            len(each.clustered),
            given.classes[each.source] if each.source >= 0 else "",
        )
        for each in found
    ]
    parts += [
        f"<p>For a person to look at: rare kinds of a class look alike. They are in {escape(SAMPLES_FILE)}.</p>",
        plots.table(["class", "samples", "outlying", "in a cluster put in", "which looks like"], rows),
    ]
    worst = sorted(found, key=lambda each: -len(each.clustered) - len(each.outlying))[:CLASSES_SHOWN]
    for each in worst:
        named = {*each.clustered, *each.outlying}
        if named:
            group = np.array([1 if int(sample) in named else -1 for sample in each.indices])
            name = f"Class {given.classes[each.label]}: activations, named ones coloured"
            parts.append(
                plots.points(name, "component 1", "component 2", each.points[:, 0], each.points[:, 1], group)
            )
    return plots.page(title, *parts)


def _row(curve: Curve, axis: Curve) -> list[str]:
    known = dict(zip(curve.epsilons.tolist(), curve.accuracy.tolist(), strict=True))
    return [f"{known[size]:.2%}" if size in known else "" for size in axis.epsilons.tolist()]


def _told(curve: dict[str, Any]) -> dict[str, Any]:
    return {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in curve.items()}
