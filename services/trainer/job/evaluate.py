"""How good a supervised model is: figures with 95% intervals, and one HTML file with the plots.

Intervals: Wilson's for accuracy (Wilson 1927), the percentile bootstrap of the samples for all others (Efron 1979).
Calibration: expected calibration error over ten bins of confidence (Guo et al. 2017).

Shapes: N samples, C classes.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.trainer.job import plots

Array = NDArray[Any]
RESAMPLES = 200
BOOTSTRAP_ROWS_MAX = 5_000  # more tell no more of an interval's width than their number does
BINS = 10
CURVES_MAX = 10
CURVE_POINTS = 200
Z95 = 1.959964
REPORT_FILE, FIGURES_FILE = "report.html", "report.json"


@dataclass(frozen=True)
class Figure:
    """A value with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Evaluation:
    """Figures by name, and the report."""

    figures: Mapping[str, Figure]
    html: str
    samples: int = 0
    """On how many; 0 where there is no truth to be compared with."""
    classes: Mapping[str, Figure] = field(default_factory=dict)
    """Recall of each class that occurs."""

    @property
    def metrics(self) -> dict[str, float]:
        """The values alone."""
        return {name: figure.value for name, figure in self.figures.items()}

    def beside(self, values: Mapping[str, float]) -> "Evaluation":
        """The same with values that are known exactly, such as what privacy was spent."""
        return replace(
            self,
            figures={**self.figures, **{name: Figure(each, each, each) for name, each in values.items()}},
        )

    def write(self, folder: Path) -> Path:
        """The report and its figures as files; returns the folder."""
        (folder / REPORT_FILE).write_text(self.html)
        figures = {name: vars(figure) for name, figure in self.figures.items()}
        (folder / FIGURES_FILE).write_text(json.dumps(figures, indent=1))
        return folder


def classification(
    title: str, probabilities_NC: Array, labels_N: Array, classes: Sequence[str]
) -> Evaluation:
    """A classifier on samples that it was not trained on."""
    p = np.clip(np.asarray(probabilities_NC, dtype=np.float64), 1e-12, 1.0)
    labels = np.asarray(labels_N)
    count = len(labels)
    guesses = p.argmax(axis=1)
    figures = {"accuracy": wilson(int((guesses == labels).sum()), count)}
    figures |= _bootstrapped(
        count,
        {
            "macro_f1": lambda chosen: macro_f1(guesses[chosen], labels[chosen], len(classes)),
            "log_loss": lambda chosen: float(-np.log(p[chosen, labels[chosen]]).mean()),
            "calibration_error": lambda chosen: calibration_error(p[chosen], labels[chosen]),
            "roc_auc": lambda chosen: roc_auc(p[chosen], labels[chosen]),
        },
    )
    confusion = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(confusion, (labels, guesses), 1)
    shown = list(range(len(classes)))[:CURVES_MAX] if len(classes) > 2 else [1]
    roc = [(classes[c], *_roc(p[:, c], labels == c)) for c in shown]
    precision = [(classes[c], *_precision_recall(p[:, c], labels == c)) for c in shown]
    confidence, right = _reliability(p, labels)
    parts = [
        f"<p>{count} samples that training did not see. Brackets are 95% intervals.</p>",
        _figures_table(figures),
        "<h2>Confusion</h2>",
        plots.heat("Rows are the truth, columns the guess", confusion, classes),
        "<h2>Calibration, ROC and precision-recall</h2>",
        plots.lines("Calibration", "confidence", "share right", [("", confidence, right)], diagonal=True),
        plots.lines("ROC", "false positive rate", "true positive rate", roc, diagonal=True),
        plots.lines("Precision-recall", "recall", "precision", precision),
        "<h2>Per class</h2>",
        _per_class(confusion, classes),
    ]
    recall = {
        name: wilson(int(confusion[c, c]), int(confusion[c].sum()))
        for c, name in enumerate(classes)
        if confusion[c].any()
    }
    return Evaluation(figures, plots.page(title, *parts), count, recall)


def regression(title: str, guesses_N: Array, values_N: Array) -> Evaluation:
    """A model of numbers on samples that it was not trained on."""
    guesses, values = np.asarray(guesses_N, dtype=np.float64), np.asarray(values_N, dtype=np.float64)
    errors = guesses - values

    def r2(chosen: Array) -> float:
        spread = float(((values[chosen] - values[chosen].mean()) ** 2).sum())
        return 1 - float((errors[chosen] ** 2).sum()) / spread if spread else 0.0

    figures = _bootstrapped(
        len(values),
        {
            "rmse": lambda chosen: float(np.sqrt((errors[chosen] ** 2).mean())),
            "mae": lambda chosen: float(np.abs(errors[chosen]).mean()),
            "r2": r2,
        },
    )
    heights, edges = np.histogram(errors, bins=30)
    parts = [
        f"<p>{len(values)} samples that training did not see. Brackets are 95% intervals.</p>",
        _figures_table(figures),
        "<h2>Errors</h2>",
        plots.points("Guess over truth", "truth", "guess", values, guesses),
        plots.points("Error over guess", "guess", "error", guesses, errors),
        plots.lines(
            "Distribution of errors", "error", "samples", [("", (edges[1:] + edges[:-1]) / 2, heights)]
        ),
    ]
    return Evaluation(figures, plots.page(title, *parts), len(values))


def macro_f1(guesses_N: Array, labels_N: Array, classes: int) -> float:
    """F1 of each class that occurs, averaged."""
    right = np.bincount(labels_N[guesses_N == labels_N], minlength=classes)
    both = np.bincount(labels_N, minlength=classes) + np.bincount(guesses_N, minlength=classes)
    return float((2 * right[both > 0] / both[both > 0]).mean())


def calibration_error(p_NC: Array, labels_N: Array) -> float:
    """How far confidence is from being right, weighted by how often it is given."""
    confidence, right = p_NC.max(axis=1), p_NC.argmax(axis=1) == labels_N
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, weights=confidence - right, minlength=BINS)
    return float(np.abs(gaps).sum() / len(labels_N))


def roc_auc(p_NC: Array, labels_N: Array) -> float:
    """Area under the ROC curve by ranks, one class against the rest, averaged over classes that occur."""
    areas = []
    for c in range(p_NC.shape[1]) if p_NC.shape[1] > 2 else [1]:
        positive = labels_N == c
        count, others = int(positive.sum()), int((~positive).sum())
        if count and others:
            _, inverse, ties = np.unique(p_NC[:, c], return_inverse=True, return_counts=True)
            ranks = (np.cumsum(ties) - (ties - 1) / 2)[inverse]  # of ties the middle
            areas.append((ranks[positive].sum() - count * (count + 1) / 2) / (count * others))
    return float(np.mean(areas)) if areas else 0.5


def wilson(right: int, count: int) -> Figure:
    """A share with its interval."""
    share, z2 = right / count, Z95**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z95 / (1 + z2 / count) * np.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return Figure(share, float(centre - half), float(centre + half))


def _bootstrapped(count: int, measures: Mapping[str, Callable[[Array], float]]) -> dict[str, Figure]:
    rng = np.random.default_rng(0)
    rows = min(count, BOOTSTRAP_ROWS_MAX)
    narrower = np.sqrt(rows / count)
    draws = [rng.integers(0, count, rows) for _ in range(RESAMPLES)]
    found = {}
    for name, measure in measures.items():
        value = measure(np.arange(count))
        low, high = np.quantile([measure(draw) for draw in draws], [0.025, 0.975])
        found[name] = Figure(
            value, float(value + (low - value) * narrower), float(value + (high - value) * narrower)
        )
    return found


def _roc(scores_N: Array, positive_N: Array) -> tuple[Array, Array]:
    order = np.argsort(-scores_N, kind="stable")
    hits, misses = np.cumsum(positive_N[order]), np.cumsum(~positive_N[order])
    chosen = np.linspace(0, len(order) - 1, min(len(order), CURVE_POINTS)).astype(int)
    x, y = misses[chosen] / max(1, misses[-1]), hits[chosen] / max(1, hits[-1])
    return np.concatenate([[0.0], x]), np.concatenate([[0.0], y])


def _precision_recall(scores_N: Array, positive_N: Array) -> tuple[Array, Array]:
    order = np.argsort(-scores_N, kind="stable")
    hits = np.cumsum(positive_N[order])
    chosen = np.linspace(0, len(order) - 1, min(len(order), CURVE_POINTS)).astype(int)
    return hits[chosen] / max(1, hits[-1]), hits[chosen] / (chosen + 1)


def _reliability(p_NC: Array, labels_N: Array) -> tuple[Array, Array]:
    confidence, right = p_NC.max(axis=1), p_NC.argmax(axis=1) == labels_N
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    used = np.flatnonzero(np.bincount(bins, minlength=BINS))
    return (
        np.array([confidence[bins == each].mean() for each in used]),
        np.array([right[bins == each].mean() for each in used]),
    )


def _figures_table(figures: Mapping[str, Figure]) -> str:
    rows = [
        (name, figure.value, f"[{figure.low:.4g}, {figure.high:.4g}]") for name, figure in figures.items()
    ]
    return plots.table(["metric", "value", "95% interval"], rows)


def _per_class(confusion_CC: Array, classes: Sequence[str]) -> str:
    right = np.diag(confusion_CC)
    recall = right / np.maximum(confusion_CC.sum(axis=1), 1)
    precision = right / np.maximum(confusion_CC.sum(axis=0), 1)
    rows = [
        (name, int(confusion_CC[c].sum()), float(precision[c]), float(recall[c]))
        for c, name in enumerate(classes)
    ]
    return plots.table(["class", "samples", "precision", "recall"], rows)
