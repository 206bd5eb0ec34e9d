"""The simulated world: nothing is used twice, all work is done, and what the scheduler is told is what is so."""

import math
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.scheduler.engine.model import Plan
from services.scheduler.engine.plan import Decide
from services.scheduler.engine.snapshot import Snapshot
from services.scheduler.simulate import cluster, metrics
from services.scheduler.simulate.policies import POLICIES
from services.scheduler.simulate.traces import ANY, Phase, TraceJob
from services.scheduler.simulate.world import Outcome, Rules, Stuck, World

NODES = cluster.parse("2x4")


def job(arrival: float, seconds: float, gpus: int = 1, **more: object) -> TraceJob:
    return TraceJob(f"j{arrival}", arrival, seconds, {ANY: 1.0}, replicas=gpus, **more)  # type: ignore[arg-type]


def simulate(jobs: list[TraceJob], policy: str = "fcfs", rules: Rules | None = None) -> Outcome:
    rules = rules or Rules()
    return World(jobs, NODES, POLICIES[policy].make(rules.round_seconds), rules).run()


def check(outcome: Outcome, rules: Rules) -> None:
    """What holds after any simulation."""
    capacity = {node.name: sum(node.capacity.values()) for node in outcome.nodes}
    changes: dict[str, list[tuple[float, int]]] = defaultdict(list)
    held: dict[int, float] = defaultdict(float)
    for run in outcome.runs:
        gang = outcome.jobs[run.job]
        assert run.placement.replicas == gang.replicas, "a gang runs whole"
        assert gang.arrival <= run.start <= run.stop
        held[run.job] += run.stop - run.start
        for node, count in run.placement.nodes:
            changes[node] += [(run.start, count), (run.stop, -count)]
    for node, moments in changes.items():
        used = 0
        for _, change in sorted(moments):  # what is given back comes before what is taken at the same time
            used += change
            assert 0 <= used <= capacity[node], "no device is used twice"
        assert used == 0
    for index, gang in enumerate(outcome.jobs):
        spent = held[index] - outcome.starts[index] * rules.restart
        # A run that was stopped while it restarted has paid less than a whole charge.
        assert spent <= gang.seconds() + 1e-6
        if outcome.starts[index] == 1:
            assert spent == pytest.approx(gang.seconds())
        assert math.isfinite(outcome.ends[index])


TRACE = st.lists(
    st.builds(
        job,
        st.integers(0, 300),
        st.integers(1, 200),
        st.sampled_from([1, 1, 2, 4, 8]),
        queue=st.sampled_from(["", "a", "b"]),
        priority=st.integers(0, 3),
    ),
    min_size=1,
    max_size=14,
).map(lambda jobs: sorted(jobs, key=lambda one: one.arrival))


@settings(max_examples=6, deadline=None)
@given(TRACE)
@pytest.mark.parametrize("policy", POLICIES)
def test_nothing_is_used_twice_and_every_job_ends(policy: str, jobs: list[TraceJob]) -> None:
    rules = Rules(round_seconds=60.0 if POLICIES[policy].preempts else 0.0, restart=5.0)
    check(simulate(jobs, policy, rules), rules)


@settings(max_examples=15, deadline=None)
@given(TRACE)
def test_between_rounds_nothing_starts_where_nothing_is_seen(jobs: list[TraceJob]) -> None:
    rules = Rules(round_seconds=50.0, between=False)
    outcome = simulate(jobs, "las", rules)
    check(outcome, rules)
    starts = sorted({run.start for run in outcome.runs})
    assert all(
        later - one >= 50.0 or any(run.stop == later for run in outcome.runs) or later in _arrivals(jobs)
        for one, later in pairwise(starts)
    )


def _arrivals(jobs: list[TraceJob]) -> set[float]:
    return {one.arrival for one in jobs}


def test_work_is_conserved_through_preemption() -> None:
    rules = Rules(round_seconds=10.0)
    outcome = simulate([job(0, 500, 8), job(100, 50, 8)], "srtf", rules)
    check(outcome, rules)
    assert outcome.starts.tolist() == [2, 1]
    assert outcome.held.tolist() == [500, 50]
    assert outcome.ends.tolist() == [550, 150]


def test_every_start_costs() -> None:
    outcome = simulate([job(0, 500, 8), job(100, 50, 8)], "srtf", Rules(round_seconds=10.0, restart=20.0))
    assert outcome.held.tolist() == [540, 70]


def test_phases_change_the_speed_and_the_scheduler_sees_progress_only() -> None:
    told: list[tuple[float, float, float]] = []

    def watching(snapshot: Snapshot, now: float, preempt: bool) -> Plan:
        if "a#0" in snapshot.slots:
            slot = snapshot.slots["a#0"]
            told.append((now, float(snapshot.done[slot]), float(snapshot.work[slot])))
        return decide(snapshot, now, preempt)

    decide: Decide = POLICIES["fcfs"].make(0.0)
    jobs = [
        TraceJob("a", 0, 30, {ANY: 1.0}, phases=(Phase(10, 1.0), Phase(20, 4.0))),
        job(5, 1),
        job(12, 1),
    ]
    outcome = World(jobs, NODES, watching, Rules()).run()
    assert outcome.ends[0] == 15
    assert told == [(0, 0, 30), (5, 5, 30), (6, 6, 30), (12, 18, 30), (13, 22, 30)]


def test_a_speed_is_its_type_of_device() -> None:
    nodes = cluster.parse("1x1:slow,1x1:fast")
    jobs = [TraceJob(name, 0, 100, {"gpu/slow": 1.0, "gpu/fast": 10.0}) for name in "ab"]
    outcome = World(jobs, nodes, POLICIES["fcfs"].make(0), Rules()).run()
    assert outcome.ends.tolist() == [10, 100]


def test_told_speeds_are_wrong_within_the_factor_that_was_asked_for() -> None:
    seen: list[float] = []

    def watching(snapshot: Snapshot, now: float, preempt: bool) -> Plan:
        seen.extend(snapshot.speeds[list(snapshot.slots.values())].ravel().tolist())
        return decide(snapshot, now, preempt)

    decide: Decide = POLICIES["fcfs"].make(0.0)
    World([job(n, 1) for n in range(20)], NODES, watching, Rules(error=2.0)).run()
    assert all(0.5 <= speed <= 2.0 for speed in seen)
    assert len(set(seen)) == 20


def test_a_job_that_fits_nowhere_is_refused_before_anything_runs() -> None:
    with pytest.raises(ValueError, match="9 GPUs"):
        simulate([job(0, 1, 9)])


def test_a_scheduler_that_does_nothing_is_found_out() -> None:
    for rules in (Rules(), Rules(round_seconds=10), Rules(round_seconds=10, between=False)):
        with pytest.raises(Stuck, match="never starts"):
            World([job(0, 1)], NODES, lambda snapshot, now, preempt: Plan(), rules).run()


def test_the_same_input_gives_the_same_outcome() -> None:
    random = np.random.default_rng(3)
    jobs = [job(float(n), float(random.integers(1, 90)), int(random.choice([1, 2, 8]))) for n in range(30)]
    for policy in ("balanced", "soonest"):
        rules = Rules(round_seconds=30, restart=2)
        once, again = simulate(jobs, policy, rules), simulate(jobs, policy, rules)
        assert once.runs == again.runs


def test_a_cluster_may_have_labels_and_taints_and_jobs_go_by_them() -> None:
    nodes = cluster.parse("1x8:a/@rack=r1/@zone=x/!for=lab,1x8:b/cpu=4")
    assert (nodes[0].labels, nodes[0].rack, nodes[0].taints) == (
        {"rack": "r1", "zone": "x"},
        "r1",
        {"for": "lab"},
    )
    assert (nodes[1].labels, nodes[1].taints, nodes[1].capacity["cpu"]) == ({}, {}, 4000)
    open_to_all, of_the_lab = job(0, 100, 8), replace(job(0, 100, 8), tolerates={"for": "lab"})
    done = World([open_to_all, open_to_all, of_the_lab], nodes, POLICIES["fcfs"].make(0.0), Rules()).run()
    assert sorted(run.placement.kind for run in done.runs) == ["gpu/a", "gpu/b", "gpu/b"]


@pytest.mark.parametrize("policy", ["fcfs", "balanced", "dynamic"])
def test_a_gang_that_must_be_on_one_rack_waits_for_it(policy: str) -> None:
    nodes = cluster.parse("2x4:a/@rack=r1,2x4:a/@rack=r2")
    apart = [
        replace(job(0, 100, 4), replicas=1, replica={"gpu": 4}, selector={"rack": rack})
        for rack in ("r1", "r2")
    ]
    gang = replace(job(1, 10, 2), replica={"gpu": 4})
    near = replace(gang, together="rack", strictly=True)
    for each, start in ((gang, 1), (replace(near, strictly=False), 1), (near, 100)):
        done = World([*apart, each], nodes, POLICIES[policy].make(0.0), Rules()).run()
        [run] = [run for run in done.runs if run.job == 2]
        assert run.start == start
        assert start == 1 or len({node.rack for node in nodes if node.name in dict(run.placement.nodes)}) == 1


@pytest.mark.parametrize("spec", ["", "4", "4x", "x8", "4x8:", "4x8;2x2", "4x-1"])
def test_a_cluster_that_reads_otherwise_is_refused(spec: str) -> None:
    with pytest.raises(ValueError, match="cluster"):
        cluster.parse(spec)


def test_figures_of_a_small_world_are_what_one_computes_by_hand() -> None:
    # Two jobs of all eight devices, one after the other.
    outcome = simulate([job(0, 100, 8, queue="a"), job(10, 100, 8, queue="b")])
    found = metrics.figures(outcome)
    assert (found.jct_mean, found.jct_p50, found.jct_max) == (145, 100, 190)
    assert (found.makespan, found.utilisation, found.restarts) == (200, 1.0, 0)
    assert (found.wait_mean, found.wait_max) == (45, 90)
    assert found.rho_max == pytest.approx(1.9)
    assert found.unfair == 0.5
    assert [(queue.name, queue.jobs, queue.device_share) for queue in found.queues] == [
        ("a", 1, 0.5),
        ("b", 1, 0.5),
    ]


def test_rho_counts_the_contention_of_the_whole_trace() -> None:
    outcome = simulate([job(0, 100) for _ in range(16)])
    assert metrics.rhos(outcome).max() == pytest.approx(1.0)
