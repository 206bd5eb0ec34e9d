"""The end of an AutoML search: the best of its candidates, alone and together, against baselines.

Reads what each candidate left (`trial_{number}`) and makes two of all: an ensemble whose weights are chosen greedily on the
guesses that cross-validation gave (Caruana et al. 2004), and a stack, a linear model over the guesses of the best of each family
(Wolpert 1992). Both are judged by cross-validation of their own: what they say of a sample is by weights that were chosen on
others. Whichever of the two and the best candidate has the lowest loss there is chosen; what it is made of learns from the whole training part, is measured on the held-out part beside all others of the
leaderboard, and is exported as one ONNX file.

`leaderboard.json` and the report say for each entry its cross-validated score and, where it was fitted, the held-out
one. One baseline knows no feature: the most frequent class, or the mean. For texts there is another: weighed words under a
logistic regression, with settings that nobody looked for.

Model: features FP32 [B, D], or text BYTES [B, 1] → `probabilities` FP32 [B, C], or `variable` FP32 [B, 1] for numbers.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType

from aios.errors import FailedPrecondition
from aios.train import Run
from services.trainer import catalog
from services.trainer.job import candidates, evaluate, outputs, plots, result, together
from services.trainer.job.candidates import Samples
from services.trainer.job.evaluate import Evaluation
from services.trainer.job.tables import Array
from services.trainer.job.together import Mixture

OPSET = 17  # of ONNX: old enough for every runtime that serves
LEAST = 0.02  # weight of a member that is worth its time
STACKED_MAX = 6
LEADERBOARD = "leaderboard.json"


class NoCandidates(FailedPrecondition):
    """No candidate of the search left its guesses."""

    reason = "NO_CANDIDATES"


@dataclass(frozen=True)
class Found:
    """What a candidate left."""

    number: int
    settings: dict[str, Any]
    guessed_NC: Array
    """Of the training part, by cross-validation."""


@dataclass(frozen=True)
class Entry:
    """One that may be chosen."""

    name: str
    mixture: Mixture
    guessed_NC: Array


def train(run: Run) -> None:
    """Choose, fit, measure, hand over."""
    settings = run.hparams
    samples = candidates.load(run.files(), settings["target"], settings["task"], run.seed)
    run.restore()
    found = _read(run)
    folds = found[0].settings["folds"]  # of all: what is judged here is judged as they were
    y, classes = samples.train.y_N, samples.classes
    entries = [*_alone(found, classes), *combined(samples, found, folds, run.seed)]
    losses = [candidates.loss(entry.guessed_NC, y, classes) for entry in entries]
    winner = entries[int(np.argmin(losses))]
    single = min(entries[: len(found)], key=lambda entry: candidates.loss(entry.guessed_NC, y, classes))
    wanted = {index for entry in (single, *entries[len(found) :]) for index in entry.mixture.members}
    fitted = {}
    with run.phase("train", len(wanted)):
        for step, index in enumerate(sorted(wanted), 1):
            model = candidates.make(found[index].settings, classes=bool(classes), seed=run.seed)
            fitted[index] = candidates.fit(model, samples.train.x_ND, y)
            run.report(step, fitted=step)
    held = {index: candidates.predict(model, samples.test.x_ND, classes) for index, model in fitted.items()}
    rows = [_row(samples, entry, held, chosen=entry is winner) for entry in entries]
    rows = sorted([*rows, *_baselines(samples, folds, run.seed)], key=lambda row: -row["cv_score"])
    for row in rows:
        print(_line(row), flush=True)
    members = winner.mixture.members
    evaluation = _evaluated(run, samples, winner.mixture([held[index] for index in members]), rows)
    folder = run.folder("model")
    with run.phase("export"):
        _export([fitted[index] for index in members], winner.mixture, samples, folder)
        signature = outputs.signature_of(folder)
        signature.labels.extend(samples.train.classes)
    result.hand_over(run, folder, signature, evaluation, {LEADERBOARD: rows})


def _read(run: Run) -> list[Found]:
    found = []
    for key in sorted(run.spec.datasets, key=lambda key: int(key.rpartition("_")[2])):
        folder = run.files(key)
        described = json.loads(next(folder.rglob(candidates.DESCRIPTION)).read_text())
        with np.load(next(folder.rglob(candidates.PREDICTIONS)), allow_pickle=False) as arrays:
            guessed = arrays["guessed"].astype(np.float64)
        found.append(Found(int(key.rpartition("_")[2]), described, guessed))
    if not found:
        raise NoCandidates("No candidate came to its end: give the search more time.")
    return found


def _alone(found: list[Found], classes: int) -> list[Entry]:
    return [
        Entry(
            f"trial {each.number}: {each.settings['family']}",
            together.weighted([index], [1.0], max(1, classes)),
            each.guessed_NC,
        )
        for index, each in enumerate(found)
    ]


def combined(samples: Samples, found: list[Found], folds: int, seed: int) -> list[Entry]:
    """The ensemble and the stack, where they are of more than one candidate. What either guesses of a sample is by weights
    from the other folds; the mixture itself has those from all samples.
    """
    y, classes = samples.train.y_N, samples.classes
    guesses = [each.guessed_NC for each in found]
    parts = list(candidates.folds(samples, folds, seed))

    def weighed(rows: Array | slice) -> Mixture:
        weights = candidates.greedy([each[rows] for each in guesses], y[rows], classes)
        weights = np.where(weights >= LEAST, weights, 0.0)
        weights /= weights.sum()
        chosen = [int(index) for index in np.argsort(-weights) if weights[index] > 0]
        return together.weighted(chosen, weights[chosen], max(1, classes))

    def stacked(rows: Array | slice) -> Mixture:
        return together.stacked(members, [guesses[index][rows] for index in members], y[rows], classes)

    def entry(name: str, made: Callable[[Array | slice], Mixture]) -> Entry:
        guessed = np.zeros_like(guesses[0])
        for learn, tried in parts:
            part = made(learn)
            guessed[tried] = part([guesses[index][tried] for index in part.members])
        whole = made(slice(None))
        return Entry(f"{name} of {len(whole.members)}", whole, guessed)

    best: dict[str, int] = {}
    for index in sorted(range(len(found)), key=lambda index: candidates.loss(guesses[index], y, classes)):
        best.setdefault(found[index].settings["family"], index)
    members = list(best.values())[:STACKED_MAX]
    made = [entry("ensemble", weighed), *([entry("stack", stacked)] if len(members) > 1 else [])]
    return [each for each in made if len(each.mixture.members) > 1]


def _row(samples: Samples, entry: Entry, held: dict[int, Array], *, chosen: bool) -> dict[str, Any]:
    members = entry.mixture.members
    at_test = entry.mixture([held[index] for index in members]) if set(members) <= held.keys() else None
    return _scored(samples, entry.name, entry.guessed_NC, at_test, chosen=chosen)


def _scored(
    samples: Samples, name: str, guessed: Array, at_test: Array | None, *, chosen: bool = False
) -> dict[str, Any]:
    y, test, classes = samples.train.y_N, samples.test.y_N, samples.classes
    return {
        "name": name,
        "chosen": chosen,
        "cv_score": candidates.score(guessed, y, classes),
        "cv_loss": candidates.loss(guessed, y, classes),
        "test_score": None if at_test is None else candidates.score(at_test, test, classes),
    }


def _baselines(samples: Samples, folds: int, seed: int) -> list[dict[str, Any]]:
    y, classes = samples.train.y_N, samples.classes
    name = "baseline: most frequent class" if classes else "baseline: mean"
    least = (candidates.baseline(samples, each) for each in (y, samples.test.y_N))
    rows = [_scored(samples, name, *least)]
    if samples.texts:
        settings = catalog.hyperparameters("candidate", {"family": "tfidf_linear"})
        guessed = np.zeros((len(y), classes))
        for learn, tried in candidates.folds(samples, folds, seed):
            model = candidates.make(settings, classes=True, seed=seed)
            candidates.fit(model, samples.train.x_ND[learn], y[learn])
            guessed[tried] = candidates.predict(model, samples.train.x_ND[tried], classes)
        model = candidates.fit(candidates.make(settings, classes=True, seed=seed), samples.train.x_ND, y)
        at_test = candidates.predict(model, samples.test.x_ND, classes)
        rows.append(_scored(samples, "baseline: TF-IDF and logistic regression", guessed, at_test))
    return rows


def _line(row: dict[str, Any]) -> str:
    held = "" if row["test_score"] is None else f", held out {row['test_score']:.4f}"
    said = " (chosen)" if row["chosen"] else ""
    return f"{row['name']}{said}: cross-validated {row['cv_score']:.4f}{held}"


def _evaluated(run: Run, samples: Samples, guessed_NC: Array, rows: list[dict[str, Any]]) -> Evaluation:
    title = f"AutoML, {run.name}"
    if samples.classes:
        made = evaluate.classification(title, guessed_NC, samples.test.y_N, samples.train.classes)
    else:
        made = evaluate.regression(title, guessed_NC[:, 0], samples.test.y_N)
    head = ["", "cross-validated", "held out"]
    cells = [
        [
            row["name"] + " (chosen)" * row["chosen"],
            row["cv_score"],
            "" if row["test_score"] is None else row["test_score"],
        ]
        for row in rows
    ]
    board = f"<h2>Leaderboard</h2>{plots.table(head, cells)}</html>"
    return Evaluation(made.figures, made.html.replace("</html>", board))


def _export(members: list[Any], mixture: Mixture, samples: Samples, folder: Path) -> None:
    known = [each.classes_ if samples.classes else np.zeros(1, dtype=int) for each in members]
    graphs = [_graph(each, samples) for each in members]
    made = together.to_onnx(graphs, known, mixture, "probabilities" if samples.classes else "variable")
    (folder / outputs.MODEL_FILE).write_bytes(made.SerializeToString())
    (folder / "features.json").write_text(json.dumps(list(samples.train.features)))


def _graph(model: Any, samples: Samples) -> onnx.ModelProto:
    if samples.texts:
        graph: onnx.ModelProto = model.graph()
        return graph
    made: onnx.ModelProto = to_onnx(
        model,
        initial_types=[("features", FloatTensorType([None, samples.train.x_ND.shape[1]]))],
        options={id(model): {"zipmap": False}} if samples.classes else None,
        target_opset=OPSET,
    )
    return made
