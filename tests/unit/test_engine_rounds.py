"""Policies that share devices by time, and elastic jobs: everybody gets its share, within what there is."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.scheduler.engine.dynamic import dynamic
from services.scheduler.engine.model import Job, Node, Placement, Plan, Queue
from services.scheduler.engine.snapshot import Floats, Snapshot, filled
from services.scheduler.engine.utility import GAP, Lines, Log, utility
from services.scheduler.policies import ALGORITHMS, Policy, Terms, check

ROUND = 100.0
TERMS = Terms(ROUND, 1, ROUND, ROUND, ROUND / 2)


def pool(gpus: int, jobs: list[Job], queues: list[Queue] | None = None) -> Snapshot:
    snapshot = filled([Node("n", {"cpu": 1000, "gpu/A": gpus})], queues or [])
    for job in jobs:
        snapshot.add(job)
    return snapshot


def gang(number: int, gpus: int = 1, **more: object) -> Job:
    return Job(f"j{number}", number, 0.0, {"cpu": 1, "gpu": gpus}, **more)  # type: ignore[arg-type]


def size(snapshot: Snapshot, name: str) -> int:
    """Replicas that run; 0 of what waits."""
    slot = snapshot.slots[name]
    return snapshot.size(slot) if slot in snapshot.holdings else 0


def carry_out(snapshot: Snapshot, decided: Plan, now: float) -> None:
    moved = [start.job for start in decided.starts if size(snapshot, start.job)]
    for name in (*decided.stops, *moved):
        snapshot.wait(name, now)
    for start in decided.starts:
        snapshot.start(start.job, start.placement, now)


def device_seconds(snapshot: Snapshot, algorithm: str, rounds: int) -> np.ndarray:
    decide = ALGORITHMS[algorithm].make(Policy(algorithm), TERMS)
    for n in range(rounds):
        carry_out(snapshot, decide(snapshot, n * ROUND, True), n * ROUND)
    slots = np.array([snapshot.slots[name] for name in snapshot.jobs])
    snapshot.touch(slots, rounds * ROUND)
    got: Floats = snapshot.attained[slots]
    return got


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 6), st.lists(st.sampled_from([1.0, 2.0, 4.0]), min_size=2, max_size=8))
def test_proportional_gives_everybody_its_share_within_a_few_rounds(gpus: int, weights: list[float]) -> None:
    rounds, snapshot = 120, pool(gpus, [gang(n, weight=weight) for n, weight in enumerate(weights)])
    got = device_seconds(snapshot, "proportional", rounds) / ROUND
    # Of R devices P/sum(P), but one at most: what a job cannot use goes to the others in the same way.
    share = np.zeros(len(weights))
    free, open_ = float(gpus), np.ones(len(weights), bool)
    while open_.any() and free > 1e-9:
        part = np.where(open_, np.array(weights), 0.0)
        part *= free / part.sum()
        full = open_ & (share + part >= 1)
        if not full.any():
            share += part
            break
        share[full], open_[full] = 1.0, False
        free = gpus - share.sum()
    assert np.abs(got - share * rounds).max() <= 4


def test_a_priority_of_ten_more_counts_twice() -> None:
    snapshot = pool(1, [gang(0, priority=10), gang(1)])
    one, other = device_seconds(snapshot, "proportional", 90)
    assert one / other == pytest.approx(2, rel=0.1)


def test_gangs_of_every_size_get_the_same_devices_over_time() -> None:
    snapshot = pool(4, [gang(0, 4), gang(1, 2), gang(2, 2)])
    got = device_seconds(snapshot, "proportional", 200)
    assert got / got.sum() == pytest.approx([1 / 3] * 3, abs=0.03)


def test_processors_are_shared_like_devices() -> None:
    snapshot = filled([Node("n", {"cpu": 1000})])
    for n in range(3):
        snapshot.add(Job(f"j{n}", n, 0.0, {"cpu": 1000}, weight=[1.0, 1.0, 2.0][n]))
    got = device_seconds(snapshot, "proportional", 120)
    assert got / got.sum() == pytest.approx([0.25, 0.25, 0.5], abs=0.03)


@pytest.mark.parametrize("algorithm", ["proportional", "utility", "max-min", "soonest"])
def test_what_may_not_be_stopped_runs_on_and_a_limit_holds(algorithm: str) -> None:
    queues = [Queue("a", limit={"gpu/A": 1})]
    jobs = [gang(0, preemptible=False), gang(1, min_runtime=1e9), gang(2, saves=False)]
    snapshot = pool(4, jobs, queues)
    decide = ALGORITHMS[algorithm].make(Policy(algorithm), TERMS)
    carry_out(snapshot, decide(snapshot, 0.0, True), 0.0)
    for n in range(3, 9):
        snapshot.add(gang(n, queue="a" if n % 2 else ""))
    for n in range(1, 12):
        decided = decide(snapshot, n * ROUND, True)
        assert not {"j0", "j1", "j2"} & set(decided.stops)
        carry_out(snapshot, decided, n * ROUND)
        held = [name for name in snapshot.jobs if size(snapshot, name)]
        assert len(held) == 4
        assert sum(snapshot.jobs[name].queue == "a" for name in held) <= 1


def test_rounds_that_lost_their_memory_go_by_what_jobs_have_run() -> None:
    snapshot = pool(1, [gang(0), gang(1)])
    device_seconds(snapshot, "max-min", 9)
    ahead = max(snapshot.jobs, key=lambda name: snapshot.attained[snapshot.slots[name]])
    for name in list(snapshot.jobs):
        if size(snapshot, name):
            snapshot.wait(name, 900.0)
    [start] = ALGORITHMS["max-min"].make(Policy("max-min"), TERMS)(snapshot, 900.0, True).starts
    assert start.job != ahead


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 3))
def test_no_other_shares_are_more_useful(seed: int, jobs: int, types: int) -> None:
    random = np.random.default_rng(seed)
    value = random.uniform(0.1, 1, (jobs, types))
    value /= value.max(axis=1, keepdims=True)
    gangs, weights = random.choice([1.0, 2.0], jobs), random.choice([1.0, 3.0], jobs)
    capacity = random.integers(2, 6, types).astype(float)
    equal = min(1.0, capacity.sum() / gangs.sum())
    for curve in (Log(), Lines(), Lines(((0.25, 0.5), (0.5, 0.8), (1.0, 1.0)))):
        found = utility(value, gangs, capacity, weights, curve)
        assert found.gap <= GAP
        assert ((found.shares * gangs[:, None]).sum(axis=0) <= capacity * (1 + 1e-6)).all()
        assert (found.shares.sum(axis=1) <= 1 + 1e-6).all()
        best = (weights * curve.worth((found.shares * value).sum(axis=1), equal)).sum() / weights.sum()
        for _ in range(20):
            other = random.dirichlet(np.ones(types + 1), jobs)[:, :types]
            other *= min(
                1.0, float((capacity / np.maximum((other * gangs[:, None]).sum(axis=0), 1e-9)).min())
            )
            worth = (weights * curve.worth((other * value).sum(axis=1), equal)).sum() / weights.sum()
            assert worth <= best + GAP + 1e-6


def test_a_logarithm_is_proportional_fairness_and_a_line_is_throughput() -> None:
    one = np.ones((3, 1))
    weights, capacity = np.array([1.0, 2.0, 3.0]), np.array([1.0])
    assert utility(one, np.ones(3), capacity, weights, Log()).shares[:, 0] == pytest.approx(
        [1 / 6, 2 / 6, 3 / 6], abs=0.03
    )
    assert utility(one, np.ones(3), capacity, weights, Lines()).shares[:, 0] == pytest.approx([0, 0, 1])


@pytest.mark.parametrize("points", [((0.5, 0.2), (1.0, 1.0)), ((0.5, 0.5), (0.4, 0.6)), ((2.0, 1.0),)])
def test_a_utility_that_is_not_concave_is_refused(points: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(Exception, match=r"policy\.utility"):
        check(Policy("utility", utility=points))


def elastic(number: int, most: int, **more: object) -> Job:
    return Job(
        f"j{number}",
        number,
        0.0,
        {"cpu": 1, "gpu": 1},
        most,
        least=1,
        agreement=0.05,
        restart=30.0,
        **more,  # type: ignore[arg-type]
    )


def test_elastic_jobs_grow_into_what_is_free_and_shrink_for_others() -> None:
    snapshot = pool(8, [elastic(0, 8, work=1e5, speeds={"gpu/A": 8.0})])
    carry_out(snapshot, dynamic(snapshot, 0.0), 0.0)
    assert size(snapshot, "j0") == 8
    for n in (1, 2):
        snapshot.add(elastic(n, 4, work=1e4, speeds={"gpu/A": 4.0}))
    carry_out(snapshot, dynamic(snapshot, 1000.0), 1000.0)
    sizes = [size(snapshot, f"j{n}") for n in range(3)]
    assert all(sizes)
    assert sum(sizes) == 8
    # It is nearly done: a restart costs more than the devices that came free would gain it.
    snapshot.progress("j0", 1e5 - 50)
    for n in (1, 2):
        snapshot.remove(f"j{n}", 1001.0)
    assert dynamic(snapshot, 1001.0) == Plan()


def gang_of(number: int, replicas: int, **more: object) -> Job:
    """One that runs whole or not at all."""
    return replace(elastic(number, replicas, work=1e4, speeds={"gpu/A": 1.0}, **more), least=0)


def test_elastic_jobs_shrink_for_a_large_gang() -> None:
    snapshot = pool(8, [elastic(n, 8, work=1e4, speeds={"gpu/A": 8.0}) for n in (0, 1)])
    carry_out(snapshot, dynamic(snapshot, 0.0), 0.0)
    assert size(snapshot, "j0") + size(snapshot, "j1") == 8
    snapshot.add(gang_of(2, 6))
    carry_out(snapshot, dynamic(snapshot, 100.0), 100.0)
    assert [size(snapshot, f"j{n}") for n in range(3)] == [1, 1, 6]


def test_what_is_free_is_kept_for_a_gang_until_others_may_shrink_for_it() -> None:
    snapshot = pool(8, [elastic(0, 6, work=1e4, speeds={"gpu/A": 6.0})])
    carry_out(snapshot, dynamic(snapshot, 0.0), 0.0)
    snapshot.add(gang_of(1, 7))
    # It comes after the gang, and would take what the gang is about to need.
    snapshot.add(elastic(2, 2, work=1e6, speeds={"gpu/A": 1.0}))
    assert dynamic(snapshot, 30.0, preempt=False, quantum=60.0) == Plan()
    carry_out(snapshot, dynamic(snapshot, 60.0, quantum=60.0), 60.0)
    assert [size(snapshot, f"j{n}") for n in range(3)] == [1, 7, 0]


def test_nothing_is_kept_for_a_gang_that_nobody_may_make_room_for() -> None:
    snapshot = pool(8, [elastic(0, 6, preemptible=False)])
    carry_out(snapshot, dynamic(snapshot, 0.0), 0.0)
    snapshot.add(gang_of(1, 7))
    snapshot.add(elastic(2, 2, work=1e6, speeds={"gpu/A": 1.0}))
    carry_out(snapshot, dynamic(snapshot, 30.0, preempt=False, quantum=60.0), 30.0)
    assert [size(snapshot, f"j{n}") for n in range(3)] == [6, 0, 2]


def two_nodes_with(*held: Job) -> Snapshot:
    """Of four devices each, with a job on each."""
    nodes = [Node(f"n{n}", {"cpu": 8, "gpu/A": 4}) for n in range(2)]
    snapshot = filled(nodes, jobs={job.name: job for job in held})
    for n, job in enumerate(held):
        snapshot.start(job.name, Placement(((f"n{n}", job.replicas),), "gpu/A"), 0.0)
    return snapshot


@pytest.mark.parametrize(("devices", "kept"), [(3, False), (1, True)])
def test_nothing_is_kept_for_a_gang_that_has_no_place_beside_those_before_it(
    devices: int, kept: bool
) -> None:
    # What free devices and the job after the gang give is two, on two nodes, unless a job before it can be moved.
    held = [replace(gang_of(n, 3 // devices), replica={"cpu": 1, "gpu": devices}) for n in range(2)]
    snapshot = two_nodes_with(*held)
    snapshot.add(replace(gang_of(2, 1), work=1e7))
    snapshot.start("j2", Placement((("n0", 1),), "gpu/A"), 0.0)
    snapshot.add(replace(gang_of(3, 1), replica={"cpu": 1, "gpu": 2}, work=1e6))
    snapshot.add(replace(gang_of(4, 1), work=1e8))
    carry_out(snapshot, dynamic(snapshot, 30.0, preempt=False, quantum=60.0), 30.0)
    assert [size(snapshot, f"j{n}") for n in (3, 4)] == [0, int(not kept)]
    carry_out(snapshot, dynamic(snapshot, 60.0, quantum=60.0), 60.0)
    assert size(snapshot, "j3") == kept


def test_others_move_where_a_gang_lacks_only_its_place() -> None:
    snapshot = two_nodes_with(*(gang_of(n, 2) for n in range(2)))
    snapshot.add(replace(gang_of(2, 1), replica={"cpu": 4, "gpu": 4}))
    decided = dynamic(snapshot, 100.0)
    assert {start.job for start in decided.starts} > {"j2"}
    assert decided.stops == ()
    carry_out(snapshot, decided, 100.0)
    assert [size(snapshot, f"j{n}") for n in range(3)] == [2, 2, 1]
    assert (snapshot.free >= 0).all()


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_elastic_jobs_stay_within_their_sizes_their_limits_and_the_pool(data: st.DataObject) -> None:
    queues = [Queue("a", limit={"gpu/A": 3})]
    snapshot = pool(data.draw(st.integers(1, 9)), [], queues)
    now = 0.0
    for n in itertools.count():
        if n == 12:
            break
        for number in range(2 * n, 2 * n + data.draw(st.integers(0, 2))):
            more = {
                "queue": data.draw(st.sampled_from(["", "a"])),
                "work": data.draw(st.sampled_from([0.0, 500.0])),
            }
            snapshot.add(elastic(number, data.draw(st.integers(1, 6)), **more))
        preempt: bool = data.draw(st.booleans())
        carry_out(snapshot, dynamic(snapshot, now, preempt=preempt), now)
        assert (snapshot.free >= 0).all()
        sizes = {name: size(snapshot, name) for name in snapshot.jobs}
        assert all(size <= snapshot.jobs[name].replicas for name, size in sizes.items())
        assert sum(size for name, size in sizes.items() if snapshot.jobs[name].queue == "a") <= 3
        held = [name for name, size in sizes.items() if size]
        ends: bool = data.draw(st.booleans())
        if held and ends:
            snapshot.remove(data.draw(st.sampled_from(held)), now)
        now += data.draw(st.sampled_from([1.0, 500.0]))
