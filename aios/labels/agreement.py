"""How well people agree beyond chance. Sources: Cohen 1960; Fleiss 1971; Krippendorff, Content Analysis, 2004.

Undefined, as of people who only ever say one thing, is NaN.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.float64]


class Level(StrEnum):
    """What the differences of two values mean."""

    NOMINAL = "nominal"
    ORDINAL = "ordinal"
    INTERVAL = "interval"
    RATIO = "ratio"


def cohen_kappa(a: Sequence[Hashable], b: Sequence[Hashable]) -> float:
    """Two people on the same items."""
    items = len(a)
    if not items:
        return float("nan")
    mine, theirs = Counter(a), Counter(b)
    observed = sum(x == y for x, y in zip(a, b, strict=True)) / items
    expected = sum(mine[value] * theirs[value] for value in mine) / items**2
    return (observed - expected) / (1 - expected) if expected != 1 else float("nan")


def fleiss_kappa(counts: Sequence[Sequence[int]]) -> float:
    """Any people on the same items, as many on each.

    Args:
        counts: How many said each category, an item a row.
    """
    table: Counts = np.asarray(counts, float)
    if table.size == 0 or table[0].sum() < 2:
        return float("nan")
    items, raters = len(table), table[0].sum()
    shares = table.sum(axis=0) / (items * raters)
    observed = ((table**2).sum(axis=1) - raters).mean() / (raters * (raters - 1))
    expected = (shares**2).sum()
    return float((observed - expected) / (1 - expected)) if expected != 1 else float("nan")


def krippendorff_alpha(counts: Sequence[Sequence[int]], values: Sequence[float], level: Level) -> float:
    """Any people on any items, as many on each as there are.

    Args:
        counts: How many said each value, an item a row.
        values: Ascending where the level knows an order. Nominal ones are only told apart.
    """
    table: Counts = np.asarray(counts, float).reshape(len(counts), len(values))
    table = table[table.sum(axis=1) >= 2]
    if not len(table):
        return float("nan")
    # Each item's pairs of values, weighted so that each answer counts once.
    scaled = table / (table.sum(axis=1, keepdims=True) - 1)
    coincidence = table.T @ scaled - np.diag(scaled.sum(axis=0))
    totals = coincidence.sum(axis=1)
    distance = _distance(totals, np.asarray(values, float), level)
    expected = (np.outer(totals, totals) - np.diag(totals)) / (totals.sum() - 1)
    disagreement = (expected * distance).sum()
    return float(1 - (coincidence * distance).sum() / disagreement) if disagreement else float("nan")


def _distance(totals: Counts, values: Counts, level: Level) -> Any:
    if level is Level.NOMINAL:
        return 1.0 - np.eye(len(values))
    if level is Level.ORDINAL:
        ranks = totals.cumsum() - totals / 2
        return (ranks[:, None] - ranks[None, :]) ** 2
    difference = values[:, None] - values[None, :]
    if level is Level.INTERVAL:
        return difference**2
    total = values[:, None] + values[None, :]
    return np.divide(difference, total, out=np.zeros_like(total), where=total != 0) ** 2
