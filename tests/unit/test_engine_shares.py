"""Allocations of time over types of device: within what there is, optimal, and the same for the same jobs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.scheduler.engine import allocate, linear
from services.scheduler.engine.allocate import Demand
from services.scheduler.engine.linear import Groups
from services.scheduler.engine.snapshot import Floats


def demand(seed: int, jobs: int, types: int, *, alike: int = 0) -> Demand:
    random = np.random.default_rng(seed)
    speeds = random.uniform(0.1, 9, (alike or jobs, types))
    speeds[random.random(speeds.shape) < 0.1] = 0.0
    speeds[:, 0] = np.maximum(speeds[:, 0], 0.1)
    rows = random.integers(0, len(speeds), jobs) if alike else np.arange(jobs)
    return Demand(
        speeds[rows],
        random.choice([1.0, 2.0, 4.0], jobs),
        random.integers(4, 12, types).astype(float),
        np.ones(jobs),
    )


def check(asked: Demand, shares: Floats) -> None:
    assert (shares >= 0).all()
    assert (shares.sum(axis=1) <= 1 + 1e-6).all(), "no job has more than all of its time"
    used = (shares * asked.gangs[:, None]).sum(axis=0)
    assert (used <= asked.capacity * (1 + 1e-6)).all(), "no type is used beyond its devices"


def all_of_them(asked: Demand) -> list[Floats]:
    steps = np.linspace(10, 500, len(asked.gangs))
    elapsed = np.linspace(0, 300, len(asked.gangs))
    isolated = 50 + steps / np.maximum(allocate.equal_speeds(asked), 1e-9)
    return [
        allocate.max_min(asked),
        allocate.max_min_unaware(asked),
        allocate.makespan(asked, steps),
        allocate.finish_time_fair(asked, steps, elapsed, isolated),
        allocate.max_sum(asked),
        allocate.soonest(asked, steps),
    ]


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 25), st.integers(1, 4))
def test_shares_stay_within_time_and_devices(seed: int, jobs: int, types: int) -> None:
    asked = demand(seed, jobs, types)
    for shares in all_of_them(asked):
        check(asked, shares)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 30), st.integers(1, 4))
def test_the_least_favoured_is_as_well_off_as_any_prices_allow(seed: int, jobs: int, types: int) -> None:
    asked = demand(seed, jobs, types)
    value = _value(asked)
    groups = Groups.of(value, asked.gangs, asked.capacity)
    best = linear.bound(groups, linear.solve(groups, groups.none, groups.ones))
    least = (value * allocate.max_min(asked)).sum(axis=1).min()
    assert least == pytest.approx(best, rel=1e-3)


def test_an_interior_solution_is_as_good_as_a_vertex() -> None:
    asked = demand(5, 1_200, 3)
    value = _value(asked)
    assert value.size >= linear.INTERIOR_MIN
    shares = allocate.max_min(asked)
    check(asked, shares)
    groups = Groups.of(value, asked.gangs, asked.capacity)
    best = linear.bound(groups, linear.solve(groups, groups.none, groups.ones))
    assert (value * shares).sum(axis=1).min() == pytest.approx(best, rel=1e-3)


def test_jobs_that_are_alike_are_one_to_the_program_and_are_treated_alike() -> None:
    asked = demand(7, 4_000, 3, alike=5)
    value = _value(asked)
    assert len(Groups.of(value, asked.gangs, asked.capacity).gangs) <= 15
    shares = allocate.max_min(asked)
    check(asked, shares)
    first: dict[bytes, Floats] = {}
    for row, share in zip(np.column_stack([value, asked.gangs]), shares, strict=True):
        assert (first.setdefault(row.tobytes(), share) == share).all()


def test_weights_divide_one_type_in_their_proportion() -> None:
    asked = Demand(np.ones((3, 1)), np.ones(3), np.array([1.2]), np.array([1.0, 2.0, 3.0]))
    assert allocate.max_min(asked)[:, 0] == pytest.approx([0.2, 0.4, 0.6])


def test_what_one_cannot_use_goes_to_the_others() -> None:
    # The first can use at most all of its time; the other two share what is left, each at most all of its.
    asked = Demand(np.ones((3, 1)), np.array([1.0, 4.0, 4.0]), np.array([5.0]), np.ones(3))
    assert allocate.max_min(asked)[:, 0] == pytest.approx([1.0, 0.5, 0.5])


def test_each_goes_where_it_is_comparatively_fast() -> None:
    asked = Demand(np.array([[10.0, 1.0], [10.0, 9.0]]), np.ones(2), np.ones(2), np.ones(2))
    assert allocate.soonest(asked, np.array([100.0, 100.0])) == pytest.approx(np.eye(2))
    # Max-min moves some of the first's time there to the second, which is worse off.
    assert allocate.max_min(asked)[:, 1] == pytest.approx([0.5, 0.5], abs=0.02)


def test_the_makespan_is_the_bound_of_the_program() -> None:
    asked = Demand(np.array([[2.0], [1.0]]), np.ones(2), np.ones(1), np.ones(2))
    shares = allocate.makespan(asked, np.array([100.0, 100.0]))
    assert (shares * asked.speeds)[:, 0] == pytest.approx([2 / 3, 2 / 3], rel=1e-4)


def test_whoever_is_late_gets_more_where_finish_times_are_to_be_fair() -> None:
    asked = Demand(np.ones((2, 1)), np.ones(2), np.ones(1), np.ones(2))
    steps, isolated = np.array([100.0, 100.0]), np.array([200.0, 200.0])
    late = allocate.finish_time_fair(asked, steps, np.array([100.0, 0.0]), isolated)
    assert late[0, 0] > late[1, 0]


def test_without_jobs_there_is_nothing_to_share() -> None:
    asked = Demand(np.zeros((0, 3)), np.zeros(0), np.ones(3), np.zeros(0))
    assert allocate.max_min(asked).shape == (0, 3)
    assert allocate.makespan(asked, np.zeros(0)).shape == (0, 3)


def _value(asked: Demand) -> Floats:
    usual = (asked.speeds * asked.capacity / asked.capacity.sum()).sum(axis=1, keepdims=True)
    value: Floats = asked.speeds / usual * asked.gangs[:, None]
    return value
