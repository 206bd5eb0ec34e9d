"""Mistakes in labels, by confident learning: a label is suspect where models that have not seen it are surer of another
class than they are, on average, where that class is right.

Source: Northcutt, Jiang, Chuang, Confident Learning: Estimating Uncertainty in Dataset Labels, JAIR 2021.

Shapes: N rows, D features, C classes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from aios.errors import InvalidArgument
from services.data.job.columns import Kind, images, kind_of, labels, numbers, texts
from services.data.job.parts import Array, array_of

FOLDS = 5
EACH_MIN = 2  # rows of a class: with fewer nothing can be learnt of it without them
CLASSES_MAX = 1_000
IMAGE_SIZE = (16, 16)
WORDS_MAX = 20_000
TREES = 200
CARDINALITY_MAX = 50  # of a column of text that is a feature by its values; with more it is read as words


@dataclass(frozen=True)
class Suspects:
    """What was found."""

    rows: Array
    """Of the table; the surest mistake first."""
    proposed: list[Any]
    """The class that each should have."""
    margin: Array
    """By how much that class is likelier, 0 to 1."""


def suspects(table: "pa.Table", column: str, seed: int) -> Suspects:
    """Rows whose label is probably wrong. Rows without a label, or of a class of one row, are not looked at.

    Raises:
        InvalidArgument: the column does not hold classes, or there is nothing to tell them by.
    """
    y, known = labels(table, column)
    if not 2 <= len(known) <= CLASSES_MAX:
        raise InvalidArgument.of(
            "parameters.label_errors", f"{column!r} must hold 2 to {CLASSES_MAX} classes, not {len(known)}"
        )
    counts = np.bincount(y[y >= 0], minlength=len(known))
    looked_at = np.flatnonzero((y >= 0) & (counts[np.maximum(y, 0)] >= EACH_MIN))
    classes = np.unique(y[looked_at])
    if len(classes) < 2:
        raise InvalidArgument.of("parameters.label_errors", f"{column!r} has too few rows of each class")
    features = features_of(table, [name for name in table.column_names if name != column])
    index = np.searchsorted(classes, y[looked_at])
    p_NC = out_of_fold(features[looked_at], index, seed)
    wrong, other = confident(p_NC, index)
    margin = p_NC[np.arange(len(index)), other] - p_NC[np.arange(len(index)), index]
    order = wrong[np.argsort(-margin[wrong], kind="stable")]
    return Suspects(looked_at[order], [known[classes[each]] for each in other[order]], margin[order])


def confident(p_NC: Array, y_N: Array) -> tuple[Array, Array]:
    """Rows whose label is probably wrong, and for every row the likeliest of the other classes.

    As many of each class as the confident joint says there are, the surest first: the rows that a model is sure of
    tell how often a label is wrong, and that share is taken to be true of the others too.
    """
    rows, classes = p_NC.shape
    own_N = p_NC[np.arange(rows), y_N]
    others_NC = p_NC.copy()
    others_NC[np.arange(rows), y_N] = -1.0
    other_N = others_NC.argmax(axis=1)
    margin_N = others_NC.max(axis=1) - own_N

    threshold_C = np.array([p_NC[y_N == each, each].mean() for each in range(classes)])
    sure_NC = p_NC >= threshold_C
    counted_N = np.where(sure_NC, p_NC, -1.0).argmax(axis=1)
    joint_CC = np.zeros((classes, classes))
    np.add.at(joint_CC, (y_N[sure_NC.any(axis=1)], counted_N[sure_NC.any(axis=1)]), 1)
    joint_CC *= (np.bincount(y_N, minlength=classes) / np.maximum(1, joint_CC.sum(axis=1)))[:, None]

    wrong = []
    for given in range(classes):
        some = np.flatnonzero((y_N == given) & (margin_N > 0))
        order = np.argsort(-margin_N[some], kind="stable")
        wrong.append(some[order[: round(joint_CC[given].sum() - joint_CC[given, given])]])
    found: Array = np.sort(np.concatenate(wrong))
    return found, other_N


def out_of_fold(x_ND: Any, y_N: Array, seed: int) -> Array:
    """The probability of each class for each row, by models that have not seen the row.

    The mean of two that err in other places: many random trees, and a linear model.
    """
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold

    classes = int(y_N.max()) + 1
    p_NC = np.zeros((len(y_N), classes))
    folds = min(FOLDS, int(np.bincount(y_N).min()))
    for train, held in StratifiedKFold(folds, shuffle=True, random_state=seed % 2**32).split(y_N, y_N):
        for model in (
            ExtraTreesClassifier(TREES, min_samples_leaf=2, random_state=seed % 2**32, n_jobs=1),
            LogisticRegression(C=0.1, max_iter=300),
        ):
            model.fit(x_ND[train], y_N[train])
            p_NC[np.ix_(held, model.classes_)] += model.predict_proba(x_ND[held]) / 2
    return p_NC


def features_of(table: "pa.Table", names: Iterable[str]) -> Any:
    """Columns as standardised numbers [N, D]: sparse where there are texts."""
    from scipy import sparse
    from sklearn.feature_extraction.text import TfidfVectorizer

    blocks: list[Any] = []
    for name in names:
        match kind_of(table, name):
            case Kind.NUMBER:
                blocks.append(_standard(numbers(table, name)[:, None]))
            case Kind.VECTOR:
                blocks.append(_standard(array_of(table, name).astype(np.float64)))
            case Kind.IMAGE:
                pixels = np.array(
                    [each.ravel() for each in images(table, name, IMAGE_SIZE)], dtype=np.float64
                )
                blocks.append(pixels / 255 - 0.5)
            case Kind.TEXT:
                values, known = labels(table, name)
                if len(known) <= CARDINALITY_MAX:
                    blocks.append((values[:, None] == np.arange(len(known))).astype(np.float64))
                elif len(known) < table.num_rows or any(" " in each for each in known[:20]):
                    made = TfidfVectorizer(max_features=WORDS_MAX, sublinear_tf=True)
                    blocks.append(made.fit_transform([each or "" for each in texts(table, name)]))
    if not blocks:
        raise InvalidArgument.of("input", "has no column that its classes could be told by")
    if any(sparse.issparse(each) for each in blocks):
        return sparse.hstack(blocks).tocsr()
    return np.concatenate(blocks, axis=1)


def _standard(values: Array) -> Array:
    filled = np.where(np.isfinite(values), values, np.nan)
    with np.errstate(all="ignore"):
        mean = np.nan_to_num(np.nanmean(filled, axis=0)) if len(filled) else 0.0
        spread = np.nan_to_num(np.nanstd(filled, axis=0)) if len(filled) else 1.0
    made: Array = np.where(np.isfinite(filled), (filled - mean) / np.where(spread > 0, spread, 1), 0.0)
    return made
