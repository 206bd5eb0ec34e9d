"""Gates, scaling and the figures that both go by."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference import monitor, scaling
from services.inference.gates import Figures, Step, Trial, certainly_above, decide
from services.inference.monitor import Counts, Monitor
from services.inference.policies import Gates, Scaling, Stage
from services.inference.scaling import Load

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GATES = Gates(requests_min=50, errors_percent_max=1.0)
NONE = Figures()
RULE = Scaling(1, 8, concurrency=4.0, idle_seconds=60)


def trial(
    candidate: Figures, live: Figures = NONE, *, seconds: int = 30, age: float = 60, **quality: float
) -> Trial:
    return Trial(2, 0, Stage(10, 0, seconds), NOW - timedelta(seconds=age), candidate, live, quality)


def test_all_gates_that_held_for_the_stages_time_are_a_reason_to_go_on() -> None:
    good = Figures(500, 0, 12.0)
    assert decide(trial(good), GATES, NOW, paused=False).step is Step.NEXT
    assert decide(trial(good, age=29), GATES, NOW, paused=False).step is Step.WAIT
    assert decide(trial(good), GATES, NOW, paused=True).step is Step.WAIT
    assert decide(trial(good, seconds=0), GATES, NOW, paused=False).reason == "waits to be promoted"
    few = decide(trial(Figures(49)), GATES, NOW, paused=False)
    assert (few.step, few.reason) == (Step.WAIT, "has answered 49 of 50 requests")


WRONG = [
    (trial(Figures(20, 20), age=0), GATES, "100.0% of 20 requests failed"),
    (trial(Figures(1000, 60), Figures(1000, 10)), GATES, "of the live revision's 1.0%"),
    (trial(Figures(200, 0, 300.0)), Gates(p99_millis_max=250), "300 ms, above 250"),
    (
        trial(Figures(200, 0, 31.0), Figures(900, 0, 10.0)),
        Gates(slowdown_max=3),
        "above 3 times the live revision's 10",
    ),
    (trial(Figures(200), accuracy=0.8), Gates(quality_min={"accuracy": 0.9}), "accuracy is 0.8, below 0.9"),
]


@pytest.mark.parametrize(("seen", "gates", "why"), WRONG)
def test_a_gate_that_fails_takes_the_trial_back_at_once_also_while_it_is_paused(
    seen: Trial, gates: Gates, why: str
) -> None:
    decision = decide(seen, gates, NOW, paused=True)
    assert decision.step is Step.BACK
    assert why in decision.reason


def test_what_clients_send_wrong_to_both_revisions_fails_no_gate() -> None:
    assert decide(trial(Figures(500, 100), Figures(4500, 900)), GATES, NOW, paused=False).step is Step.NEXT


def test_a_quality_gate_waits_for_a_report() -> None:
    gates = Gates(requests_min=1, quality_min={"accuracy": 0.9})
    good = Figures(500, 0, 12.0)
    assert "waits for reports of accuracy" in decide(trial(good), gates, NOW, paused=False).reason
    assert decide(trial(good, accuracy=0.95), gates, NOW, paused=False).step is Step.NEXT


@given(st.integers(0, 3000), st.integers(0, 3000), st.floats(0, 1))
def test_certainty_needs_evidence(hits: int, tries: int, share: float) -> None:
    hits = min(hits, tries)
    above = certainly_above(hits, tries, share)
    assert not above or hits / tries > share
    assert not above or certainly_above(hits * 2, tries * 2, share), "more of the same is no less certain"


def test_one_failure_of_a_few_is_no_certainty() -> None:
    assert not certainly_above(1, 50, 0.01)
    assert certainly_above(5, 10, 0.01)


@given(
    st.lists(st.integers(0, 200), min_size=1, max_size=80),
    st.integers(0, 8),
    st.floats(0, 1000),
    st.integers(0, 2),
)
def test_scaling_stays_within_its_bounds_and_grows_by_no_more_than_a_factor(
    loads: list[int], have: int, idle: float, least: int
) -> None:
    rule = Scaling(least, 8, concurrency=4.0, idle_seconds=60)
    seen = [Load(float(at), count, math.nan) for at, count in enumerate(loads)]
    wanted = scaling.replicas(rule, have, seen, idle, float(len(loads) - 1))
    assert 0 <= wanted <= 8
    assert wanted <= max(least, 1, have * scaling.STEP_FACTOR)
    if have == 0:
        assert wanted == 0, "a request wakes it, not a rule"
    elif wanted == 0:
        assert (least, idle >= 60) == (0, True)


def test_a_burst_adds_replicas_at_once_and_takes_none_before_a_minute_of_calm() -> None:
    busy = [Load(at, 16, math.nan) for at in range(10)]
    assert scaling.replicas(RULE, 2, busy, 0, 9.0) == 4
    calm = [*busy, *(Load(at, 1, math.nan) for at in range(10, 80))]
    assert scaling.replicas(RULE, 4, calm[:60], 0, 59.0) == 4
    assert scaling.replicas(RULE, 4, calm, 0, 79.0) == 1


def test_a_slow_percentile_adds_a_replica() -> None:
    rule = Scaling(1, 8, concurrency=100.0, p99_millis=50.0, idle_seconds=60)
    assert scaling.replicas(rule, 2, [Load(0.0, 1, 80.0)], 0, 0.0) == 3


def test_without_a_rule_nothing_is_scaled() -> None:
    assert scaling.replicas(Scaling(), 3, [Load(0.0, 900, math.nan)], 900, 0.0) == 3


def counts(requests: int, *within: int, errors: int = 0) -> Counts:
    return Counts(requests, errors, 1, (10.0, 100.0), within)


def test_figures_are_of_the_window_alone_and_survive_another_envoy() -> None:
    seen: Monitor[str] = Monitor()
    seen.note("web", {"http": counts(1000, 1000, 1000, errors=7)}, 0.0)
    seen.note("web", {"http": counts(1100, 1000, 1100, errors=9)}, 10.0)
    assert seen.since("web", 0.0).requests == 100
    assert seen.since("web", 0.0).errors == 2
    assert 10 < seen.since("web", 0.0).p99_millis <= 100
    seen.note("web", {"http": counts(40, 40, 40), "grpc": counts(5, 5, 5)}, 20.0)
    assert seen.since("web", 0.0).requests == 145
    assert seen.since("web", 10.0).requests == 45
    assert seen.since("other", 0.0) == Figures(0, 0, seen.since("other", 0.0).p99_millis)
    seen.keep(frozenset())
    assert seen.since("web", 0.0).requests == 0


def test_only_a_request_that_waits_now_wakes_a_deployment() -> None:
    seen: Monitor[str] = Monitor()
    for at, (http, grpc) in enumerate([(9, 0), (9, 4), (9, 4), (0, 4), (0, 4)]):
        counted = {"http": replace(counts(0), held=http), "grpc": replace(counts(0), held=grpc)}
        seen.note("web", counted, float(at))
        assert seen.held("web") == (at == 1), "counters that begin anew tell of nobody"


@given(st.lists(st.integers(0, 500), min_size=2, max_size=2), st.floats(0.01, 1))
def test_a_quantile_lies_within_the_range_that_holds_it(found: list[int], share: float) -> None:
    within = tuple(sorted(found))
    value = monitor.quantile(counts(within[-1], *within), share)
    assert math.isnan(value) == (within[-1] == 0)
    if within[-1]:
        assert (value <= 10) == (within[0] >= share * within[-1])
