"""How one version differs from another, column by column.

PSI, the population stability index, compares the shares of the same bins (quantiles of the baseline, or values); KS is
Kolmogorov and Smirnov's test of numbers; MMD compares vectors, images and texts by a kernel. Outliers are numbers beyond
three interquartile ranges of the baseline's quartiles. Predictions that a deployment kept are compared with what its
model was trained on (`predictions`).

Source: Gretton et al., A Kernel Two-Sample Test, JMLR 2012. Above 0.2, a PSI is commonly taken for a real change.
"""

from typing import Any

import numpy as np
import pyarrow as pa

from aios.errors import InvalidArgument
from services.data.job import charts, parts, predictions
from services.data.job.columns import Kind, histogram, images, kind_of, numbers, texts
from services.data.job.parts import Array, array_of
from services.data.job.transforms.split import together
from services.data.job.work import Result, Work

EPSILON = 1e-4  # the share of an empty bin
PERMUTATIONS = 200
VALUES_MAX = 50  # of a column of text that is compared value by value
LEVEL = 0.01  # of both tests: with many columns, 5% would ring every day
OUTLIER_BOUND = 3.0  # interquartile ranges
THUMBNAIL = (16, 16)
WORDS = 4096


def run(work: Work) -> Result:
    """Compare all rows of the input with all rows of the baseline; of predictions, with its training part alone."""
    baseline = work.inputs["baseline"]
    now = together(list(work.source.parts.values()))
    if predictions.are_predictions(now):
        learnt = {parts.TRAINING: baseline.parts[parts.TRAINING]} if parts.TRAINING in baseline.parts else {}
        before = together(list((learnt or baseline.parts).values()))
        now, before = predictions.aligned(now, before, work.model)
        asked = work.parameters["columns"] or now.column_names
    else:
        before = together(list(baseline.parts.values()))
        asked = work.columns()
    common = [each for each in now.column_names if each in before.column_names and each in asked]
    if not common:
        raise InvalidArgument.of("inputs.baseline", "has none of the columns")
    limit, bins, sample = (work.parameters[each] for each in ("psi_limit", "bins", "sample"))
    found: dict[str, dict[str, Any]] = {}
    plots = []
    for column in common:
        figures, plot = compare(before, now, column, int(bins), int(sample), work.seed)
        if figures:
            by_test = figures.get("ks_p", figures.get("mmd_p", 1.0)) < LEVEL
            by_index = figures.get("psi", 0.0) > max(float(limit), figures.get("psi_by_chance", 0.0))
            figures["drifted"] = bool(by_index if "psi" in figures else by_test)
            found[column] = figures
            plots.append(plot)
    drifted = sorted(each for each, figures in found.items() if figures["drifted"])
    summary = {
        "rows": {"baseline": before.num_rows, "input": now.num_rows},
        "drifted": drifted,
        "drift": found,
        "only_in_baseline": sorted(set(before.column_names) - set(now.column_names)),
        "only_in_input": sorted(set(now.column_names) - set(before.column_names)),
    }
    head = ["column", "psi", "ks", "ks_p", "mmd", "mmd_p", "outliers", "drifted"]
    rows = [[column, *(figures.get(each) for each in head[1:])] for column, figures in found.items()]
    sections = [charts.table(head, rows), charts.heading("Baseline blue, input red"), charts.row(*plots)]
    return Result(f"Drift: {len(drifted)} of {len(found)} columns", summary, sections)


def compare(
    before: "pa.Table", now: "pa.Table", column: str, bins: int, sample: int, seed: int
) -> tuple[dict[str, Any], str]:
    """Figures of one column and their plot; none where its kind is not compared."""
    kind = kind_of(now, column)
    if kind is not kind_of(before, column):
        return {"psi": float("1e9"), "kinds": [kind_of(before, column).value, kind.value]}, ""
    if kind is Kind.NUMBER:
        return _of_numbers(numbers(before, column), numbers(now, column), bins, column)
    if kind is Kind.TEXT:
        olds, news = ([each or "" for each in texts(table, column)] for table in (before, now))
        known = sorted(set(olds) | set(news))
        if len(known) <= VALUES_MAX:
            counts = [[each.count(value) for value in known] for each in (olds, news)]
            return _index(*map(np.array, counts)), charts.bars(column, known, *counts)
    if kind in (Kind.TEXT, Kind.VECTOR, Kind.IMAGE):
        generator = np.random.default_rng(seed)
        x, y = (_vectors(_some(table, sample, generator), column, kind) for table in (before, now))
        value, p = mmd(x, y, generator)
        return {"mmd": value, "mmd_p": p}, ""
    return {}, ""


def psi(before: Array, now: Array) -> float:
    """The population stability index of two lists of counts."""
    shares = [np.maximum(each / max(1, each.sum()), EPSILON) for each in (before, now)]
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())


def _index(before: Array, now: Array) -> dict[str, float]:
    """The index, and what it is below in 99 of 100 cases where nothing changed: few rows alone make it large.

    Source: Yurdakul and Naranjo, Statistical Properties of the Population Stability Index, 2020.
    """
    from scipy.stats import chi2

    freedom = max(1, int(((before + now) > 0).sum()) - 1)
    rows = 1 / max(1, before.sum()) + 1 / max(1, now.sum())
    return {"psi": psi(before, now), "psi_by_chance": float(chi2.ppf(1 - LEVEL, freedom) * rows)}


def mmd(x_ND: Array, y_MD: Array, generator: np.random.Generator) -> tuple[float, float]:
    """The squared maximum mean discrepancy under a Gaussian kernel of median width, and its chance by permutation."""
    both = np.concatenate([x_ND, y_MD])
    squares = (both**2).sum(axis=1)
    distances = np.maximum(squares[:, None] + squares[None, :] - 2 * both @ both.T, 0)
    width = np.median(distances[distances > 0]) if (distances > 0).any() else 1.0
    kernel = np.exp(-distances / width)
    np.fill_diagonal(kernel, 0.0)
    n = len(x_ND)

    def value(order: Array) -> float:
        mine, theirs = order[:n], order[n:]
        within = kernel[np.ix_(mine, mine)].sum() / max(1, n * (n - 1))
        other = kernel[np.ix_(theirs, theirs)].sum() / max(1, len(theirs) * (len(theirs) - 1))
        return float(within + other - 2 * kernel[np.ix_(mine, theirs)].mean())

    seen = value(np.arange(len(both)))
    by_chance = sum(value(generator.permutation(len(both))) >= seen for _ in range(PERMUTATIONS))
    return seen, (by_chance + 1) / (PERMUTATIONS + 1)


def _of_numbers(before: Array, now: Array, bins: int, column: str) -> tuple[dict[str, Any], str]:
    from scipy.stats import ks_2samp

    x, y = before[np.isfinite(before)], now[np.isfinite(now)]
    missing = np.array([[len(x), len(before) - len(x)], [len(y), len(now) - len(y)]])
    figures: dict[str, Any] = {"psi_of_missing": psi(*missing)}
    if not len(x) or not len(y):
        return {**figures, "psi": figures["psi_of_missing"]}, ""
    values = np.unique(x)
    few = len(values) <= bins  # as many as bins: each is one
    inner = values[1:] if few else np.unique(np.quantile(x, np.linspace(0, 1, bins + 1)))[1:-1]
    counts = [
        np.bincount(np.searchsorted(inner, each, side="right"), minlength=len(inner) + 1) for each in (x, y)
    ]
    test = ks_2samp(x, y, method="asymp")
    low, high = np.quantile(x, (0.25, 0.75))
    reach = OUTLIER_BOUND * (high - low)
    far = float(((y < low - reach) | (y > high + reach)).mean()) if reach > 0 else 0.0
    figures |= _index(*counts)
    figures |= {"ks": float(test.statistic), "ks_p": float(test.pvalue), "outliers": far}
    shown = histogram(np.concatenate([x, y]), 20)[1]
    plot = charts.histogram(
        column, shown.tolist(), *(np.histogram(each, shown)[0].tolist() for each in (x, y))
    )
    return figures, plot


def _some(table: "pa.Table", count: int, generator: np.random.Generator) -> "pa.Table":
    if table.num_rows <= count:
        return table
    return table.take(pa.array(np.sort(generator.choice(table.num_rows, count, replace=False))))


def _vectors(table: "pa.Table", column: str, kind: Kind) -> Array:
    if kind is Kind.VECTOR:
        return array_of(table, column).astype(np.float64)
    if kind is Kind.IMAGE:
        pixels = np.array([each.ravel() for each in images(table, column, THUMBNAIL)])
        return pixels.astype(np.float64) / 255
    from sklearn.feature_extraction.text import HashingVectorizer

    hashed = HashingVectorizer(n_features=WORDS, alternate_sign=False, analyzer="char_wb", ngram_range=(3, 3))
    made: Array = hashed.transform([each or "" for each in texts(table, column)]).toarray()
    return made
