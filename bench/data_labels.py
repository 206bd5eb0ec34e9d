"""Mistakes in labels: 5% of the labels of scikit-learn's digits changed at random, and looked for by `clean`.

Beside it the plain way: a label is wrong where a model that has not seen the row says something else, by the linear
model alone and by the same two models.
"""

import numpy as np
import pyarrow as pa
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from bench.report import Report
from services.data.job import labels
from services.data.job.parts import Array, with_column

SEEDS = (0, 1, 2, 3, 4)
FLIPPED = 0.05
RECALL_MIN, PRECISION_MIN = 0.80, 0.70


def flipped(y: Array, seed: int) -> Array:
    """Labels of which some became another class."""
    generator = np.random.default_rng(seed)
    changed = y.copy()
    rows = generator.choice(len(y), int(FLIPPED * len(y)), replace=False)
    changed[rows] = (y[rows] + generator.integers(1, 10, len(rows))) % 10
    return changed


def scores(found: Array, wrong: Array) -> tuple[float, float]:
    """Recall and precision."""
    hits = len(np.intersect1d(found, wrong))
    return hits / len(wrong), hits / max(1, len(found))


def main() -> None:
    report = Report("data_labels")
    x, y = load_digits(return_X_y=True)
    measured: dict[str, list[tuple[float, float]]] = {}
    for seed in SEEDS:
        changed = flipped(y, seed)
        wrong = np.flatnonzero(changed != y)
        table = with_column(pa.table({"label": changed}), "image", x.reshape(-1, 8, 8))
        found = labels.suspects(table, "label", seed).rows
        measured.setdefault("clean", []).append(scores(found, wrong))

        linear = LogisticRegression(C=0.1, max_iter=300)
        said = cross_val_predict(linear, x / 16 - 0.5, changed, cv=labels.FOLDS)
        measured.setdefault("linear_disagrees", []).append(scores(np.flatnonzero(said != changed), wrong))
        p_NC = labels.out_of_fold(x / 16 - 0.5, changed, seed)
        both = np.flatnonzero(p_NC.argmax(axis=1) != changed)
        measured.setdefault("both_disagree", []).append(scores(both, wrong))
        report.say(f"seed {seed}: {len(wrong)} labels changed, {len(found)} found")
    for name, each in measured.items():
        recall, precision = (min(one) for one in zip(*each, strict=True))
        if name == "clean":
            report.bar("recall (least of five seeds)", recall, at_least=RECALL_MIN)
            report.bar("precision (least of five seeds)", precision, at_least=PRECISION_MIN)
        else:
            report.figure(f"{name}: recall", recall)
            report.figure(f"{name}: precision", precision)
    report.finish()


if __name__ == "__main__":
    main()
