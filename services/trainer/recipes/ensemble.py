"""The end of an AutoML search: the best of its candidates, alone and together, against a baseline.

Reads what each candidate left (`trial_{number}`), chooses weights greedily on the guesses that cross-validation gave
(Caruana et al. 2004), and takes the ensemble where its loss there is lower than the best candidate's alone. What was
chosen learns from the whole training part, is measured on the held-out part beside all others of the leaderboard, and
is exported: the weighted mean of its members is one ONNX file.

`leaderboard.json` and the report say for each entry its cross-validated score and, where it was fitted, the held-out
one. The baseline knows no feature: the most frequent class, or the mean.

Model: features FP32 [B, D] → `probabilities` FP32 [B, C] with the label, or `variable` FP32 [B, 1] for numbers.
"""

import json
from typing import Any

import numpy as np
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn import ensemble
from sklearn.preprocessing import LabelEncoder

from aios.errors import FailedPrecondition
from aios.train import Run
from services.trainer.job import candidates, evaluate, outputs, plots, result
from services.trainer.job.candidates import Samples
from services.trainer.job.evaluate import Evaluation
from services.trainer.job.tables import Array

OPSET = 17  # of ONNX: old enough for every runtime that serves
LEAST = 0.02  # weight of a member that is worth its time
LEADERBOARD = "leaderboard.json"


class NoCandidates(FailedPrecondition):
    """No candidate of the search left its guesses."""

    reason = "NO_CANDIDATES"


def train(run: Run) -> None:
    """Choose, fit, measure, hand over."""
    settings = run.hparams
    samples = candidates.load(run.files(), settings["target"], settings["task"], run.seed)
    run.restore()
    found = _read(run)
    y, classes = samples.train.y_N, samples.classes
    guesses = [guessed for _, _, guessed in found]
    losses = [candidates.loss(each, y, classes) for each in guesses]
    weights = candidates.greedy(guesses, y, classes)
    weights = np.where(weights >= LEAST, weights, 0.0)
    weights /= weights.sum()
    blended = sum(weight * each for weight, each in zip(weights, guesses, strict=True))
    single = int(np.argmin(losses))
    if candidates.loss(np.asarray(blended), y, classes) >= losses[single]:
        weights = np.eye(len(found))[single]
    chosen = [int(index) for index in np.argsort(-weights) if weights[index] > 0]
    with run.phase("train", len(chosen)):
        fitted = {}
        for index in {*chosen, single}:
            model = candidates.make(found[index][1], classes=bool(classes), seed=run.seed)
            fitted[index] = candidates.fit(model, samples.train.x_ND, y)
    members = [fitted[index] for index in chosen]
    model = _together(members, weights[chosen], samples)
    held = {index: candidates.predict(each, samples.test.x_ND, classes) for index, each in fitted.items()}
    together = candidates.predict(model, samples.test.x_ND, classes)
    rows = _leaderboard(samples, found, held, np.asarray(blended), together, chosen)
    for row in rows:
        print(_line(row), flush=True)
    evaluation = _evaluated(run, samples, together, rows)
    folder = run.folder("model")
    with run.phase("export"):
        _export(model, samples, folder)
        signature = outputs.signature_of(folder)
        signature.labels.extend(samples.train.classes)
    result.hand_over(run, folder, signature, evaluation, {LEADERBOARD: rows})


def _read(run: Run) -> list[tuple[int, dict[str, Any], Array]]:
    """Number, settings and guesses of every candidate."""
    found = []
    for key in sorted(run.spec.datasets, key=lambda key: int(key.rpartition("_")[2])):
        folder = run.files(key)
        described = json.loads(next(folder.rglob(candidates.DESCRIPTION)).read_text())
        with np.load(next(folder.rglob(candidates.PREDICTIONS)), allow_pickle=False) as arrays:
            found.append((int(key.rpartition("_")[2]), described, arrays["guessed"].astype(np.float64)))
    if not found:
        raise NoCandidates("No candidate came to its end: give the search more time.")
    return found


def _together(members: list[Any], weights: Array, samples: Samples) -> Any:
    """Fitted members as one estimator."""
    if len(members) == 1:
        return members[0]
    named = [(f"m{index}", each) for index, each in enumerate(members)]
    if not samples.classes:
        blend = ensemble.VotingRegressor(named, weights=weights)
    else:
        blend = ensemble.VotingClassifier(named, voting="soft", weights=weights, flatten_transform=False)
        blend.le_ = LabelEncoder().fit(samples.train.y_N)
        blend.classes_ = blend.le_.classes_
    blend.estimators_ = members
    return blend


def _leaderboard(
    samples: Samples,
    found: list[tuple[int, dict[str, Any], Array]],
    held: dict[int, Array],
    blended: Array,
    together: Array,
    chosen: list[int],
) -> list[dict[str, Any]]:
    """Best first by the cross-validated score; the baseline is always among them."""
    y, test, classes = samples.train.y_N, samples.test.y_N, samples.classes

    def row(name: str, guessed: Array, at_test: Array | None, *, wins: bool = False) -> dict[str, Any]:
        return {
            "name": name,
            "chosen": wins,
            "cv_score": candidates.score(guessed, y, classes),
            "cv_loss": candidates.loss(guessed, y, classes),
            "test_score": None if at_test is None else candidates.score(at_test, test, classes),
        }

    rows = [
        row(f"trial {number}: {described['family']}", guessed, held.get(index), wins=chosen == [index])
        for index, (number, described, guessed) in enumerate(found)
    ]
    if len(chosen) > 1:
        rows.append(row(f"ensemble of {len(chosen)}", blended, together, wins=True))
    base = "baseline: most frequent class" if classes else "baseline: mean"
    rows.append(row(base, candidates.baseline(samples, y), candidates.baseline(samples, test)))
    return sorted(rows, key=lambda row: -row["cv_score"])


def _line(row: dict[str, Any]) -> str:
    held = "" if row["test_score"] is None else f", held out {row['test_score']:.4f}"
    said = " (chosen)" if row["chosen"] else ""
    return f"{row['name']}{said}: cross-validated {row['cv_score']:.4f}{held}"


def _evaluated(run: Run, samples: Samples, together: Array, rows: list[dict[str, Any]]) -> Evaluation:
    title = f"AutoML, {run.name}"
    if samples.classes:
        made = evaluate.classification(title, together, samples.test.y_N, samples.train.classes)
    else:
        made = evaluate.regression(title, together[:, 0], samples.test.y_N)
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


def _export(model: Any, samples: Samples, folder: Any) -> None:
    made = to_onnx(
        model,
        initial_types=[("features", FloatTensorType([None, samples.train.x_ND.shape[1]]))],
        options={id(model): {"zipmap": False}} if samples.classes else None,
        target_opset=OPSET,
    )
    (folder / outputs.MODEL_FILE).write_bytes(made.SerializeToString())
    (folder / "features.json").write_text(json.dumps(list(samples.train.features)))
