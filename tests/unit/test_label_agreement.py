"""Agreement equals what the reference libraries say, to 1e-9."""

from collections.abc import Sequence
from math import isnan
from typing import Any

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, f1_score
from statsmodels.stats.inter_rater import fleiss_kappa as reference_fleiss

from aios.labels.agreement import Level, cohen_kappa, fleiss_kappa, krippendorff_alpha
from aios.labels.likeness import span_f1

CLOSE = 1e-9
PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=30)


@given(PAIRS)
@settings(max_examples=40, deadline=None)
@pytest.mark.filterwarnings("ignore")
def test_cohen_is_that_of_scikit_learn(pairs: Sequence[tuple[int, int]]) -> None:
    a, b = [list(each) for each in zip(*pairs, strict=True)]
    same(cohen_kappa(a, b), cohen_kappa_score(a, b))


@st.composite
def tables(draw: st.DrawFn) -> Any:
    raters = draw(st.integers(2, 6))
    votes = st.lists(st.integers(0, 3), min_size=raters, max_size=raters)
    return np.array(
        [np.bincount(each, minlength=4) for each in draw(st.lists(votes, min_size=2, max_size=20))]
    )


@given(tables())
@settings(max_examples=40, deadline=None)
@pytest.mark.filterwarnings("ignore")
def test_fleiss_is_that_of_statsmodels(table: Any) -> None:
    same(fleiss_kappa(table.tolist()), float(reference_fleiss(table)))


@given(
    st.lists(st.lists(st.integers(0, 5), min_size=5, max_size=5), min_size=2, max_size=20),
    st.sampled_from([[1.0, 2.0, 3.0, 4.0, 5.0], [0.0, 0.5, 2.0, 7.0, 100.0]]),
)
@settings(max_examples=40, deadline=None)
@pytest.mark.filterwarnings("ignore")
def test_krippendorff_is_that_of_the_library_on_every_level(
    counts: Sequence[Sequence[int]], values: Sequence[float]
) -> None:
    table = np.array(counts)
    used = table[table.sum(axis=1) >= 2]
    if np.count_nonzero(used.sum(axis=0)) < 2:
        for level in Level:
            assert isnan(krippendorff_alpha(counts, values, level))
        return
    for level in Level:
        theirs = krippendorff.alpha(value_counts=table, value_domain=values, level_of_measurement=level.value)
        same(krippendorff_alpha(counts, values, level), float(theirs))


SPANS = st.sets(st.tuples(st.integers(0, 9), st.integers(10, 12), st.sampled_from("xy")), max_size=8)


@given(SPANS, SPANS)
@settings(max_examples=50, deadline=None)
def test_f1_of_spans_is_that_of_scikit_learn(
    a: set[tuple[int, int, str]], b: set[tuple[int, int, str]]
) -> None:
    every = sorted(a | b)
    if every:
        theirs = f1_score([span in a for span in every], [span in b for span in every], zero_division=0)
        same(span_f1(sorted(a), sorted(b)), float(theirs))
    else:
        assert span_f1([], []) == 1


def test_krippendorff_of_his_own_example() -> None:
    """Four observers, twelve units, some unseen: Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011."""
    none = 0
    observed = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, none, none, none],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, none, 3],
        [none, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, none],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, none],
    ]
    units = list(zip(*observed, strict=True))
    counts = [[unit.count(value) for value in (1, 2, 3, 4, 5)] for unit in units]
    expected = {Level.NOMINAL: 0.743, Level.ORDINAL: 0.815, Level.INTERVAL: 0.849, Level.RATIO: 0.797}
    for level, alpha in expected.items():
        assert krippendorff_alpha(counts, [1, 2, 3, 4, 5], level) == pytest.approx(alpha, abs=5e-4)


def test_what_cannot_be_had_is_nan() -> None:
    assert isnan(cohen_kappa([], []))
    assert isnan(cohen_kappa(["x"], ["x"]))
    assert isnan(fleiss_kappa([]))
    assert isnan(fleiss_kappa([[1, 0]]))
    assert isnan(krippendorff_alpha([], [1, 2], Level.NOMINAL))


def same(ours: float, theirs: float) -> None:
    assert (isnan(ours) and isnan(theirs)) or abs(ours - theirs) <= CLOSE, (ours, theirs)
