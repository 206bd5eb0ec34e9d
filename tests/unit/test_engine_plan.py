"""The engine's promises, whatever the pool and the policy: nothing is given twice, no gang is split, nobody is passed."""

import copy
from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.scheduler.engine.fair import fair
from services.scheduler.engine.model import WAITING, Job, Node, Placement, Plan, Queue
from services.scheduler.engine.order import fcfs, las, priority, sjf
from services.scheduler.engine.plan import Policy, plan
from services.scheduler.engine.snapshot import Snapshot, filled
from services.scheduler.policies import Policy as Chosen
from services.scheduler.policies import compose

POLICIES = [
    *(Policy(order.__name__, order) for order in (fcfs, sjf, priority, las)),
    Policy("las", las, preempt=True),
    Policy("srtf", sjf, preempt=True),
    Policy("fair", fair),
    Policy("fair", fair, preempt=True),
    Policy("conservative", fcfs, reservations=8),
]
QUEUES = [
    Queue("a", weight=2.0, nominal={"gpu/A": 4}),
    Queue("b", limit={"gpu/A": 3, "cpu": 6}),
    Queue("c", "a"),
]

nodes = st.lists(
    st.builds(
        lambda cpu, a, b, rack: {"cpu": cpu, "gpu/A": a, "gpu/B": b, "rack": rack},
        st.integers(0, 8),
        st.integers(0, 4),
        st.integers(0, 4),
        st.sampled_from("xy"),
    ),
    min_size=1,
    max_size=4,
)
replicas = st.builds(
    lambda cpu, kind, gpus: {"cpu": cpu} | ({kind: gpus} if gpus else {}),
    st.integers(1, 4),
    st.sampled_from(["gpu", "gpu/A", "gpu/B"]),
    st.integers(0, 3),
)


@st.composite
def jobs(draw: st.DrawFn, number: int) -> Job:
    return Job(
        f"j{number}",
        number,
        float(number),
        draw(replicas),
        draw(st.integers(1, 3)),
        queue=draw(st.sampled_from(["", "a", "b", "c"])),
        priority=draw(st.integers(0, 2)),
        preemptible=draw(st.booleans()),
        estimate=draw(st.sampled_from([0.0, 10.0, 100.0])),
        speeds=draw(st.sampled_from([{}, {"gpu/A": 1.0, "gpu/B": 2.0}])),
        work=draw(st.sampled_from([0.0, 50.0])),
    )


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Snapshot, Policy, float]:
    """A pool in the middle of its life: some jobs run where an earlier plan put them."""
    pool = [
        Node(f"n{i}", {k: v for k, v in one.items() if k != "rack"}, rack=one["rack"])
        for i, one in enumerate(draw(nodes))
    ]
    snapshot = filled(pool, QUEUES)
    count = draw(st.integers(0, 10))
    for number in range(count):
        snapshot.add(draw(jobs(number)))
    carry_out(snapshot, plan(snapshot, draw(st.sampled_from(POLICIES)), 20.0), 20.0)
    for number in range(count, count + draw(st.integers(0, 6))):
        snapshot.add(draw(jobs(number)))
    return snapshot, draw(st.sampled_from(POLICIES)), 25.0


def carry_out(snapshot: Snapshot, decided: Plan, now: float) -> None:
    for name in decided.stops:
        snapshot.wait(name, now)
    for start in decided.starts:
        snapshot.start(start.job, start.placement, now)


@given(worlds())
def test_nothing_is_given_twice_and_no_gang_is_split(world: tuple[Snapshot, Policy, float]) -> None:
    snapshot, policy, now = world
    decided = plan(snapshot, policy, now)
    used: dict[tuple[str, str], float] = defaultdict(float)
    placements = {
        name: snapshot.holdings[slot].placement
        for name, slot in snapshot.slots.items()
        if slot in snapshot.holdings
    }
    for name in decided.stops:
        assert snapshot.jobs[name].preemptible
        del placements[name]
    for start in decided.starts:
        assert start.job not in placements
        placements[start.job] = start.placement
    for name, placement in placements.items():
        job = snapshot.jobs[name]
        assert placement.replicas == job.replicas
        for node, count in placement.nodes:
            for resource, amount in job.replica.items():
                kind = placement.kind if resource == "gpu" else resource
                used[node, kind] += amount * count
    for (node, resource), amount in used.items():
        row = snapshot.nodes[snapshot.node_rows[node]]
        assert row is not None
        assert amount <= row.capacity.get(resource, 0)
    carry_out(snapshot, decided, now)
    assert (snapshot.free >= 0).all()


@given(worlds())
def test_a_plan_is_a_function_of_its_inputs(world: tuple[Snapshot, Policy, float]) -> None:
    snapshot, policy, now = world
    before = copy.deepcopy(snapshot)
    assert plan(snapshot, policy, now) == plan(before, policy, now)


@given(worlds())
def test_no_queue_goes_beyond_its_limit(world: tuple[Snapshot, Policy, float]) -> None:
    snapshot, policy, now = world
    carry_out(snapshot, plan(snapshot, policy, now), now)
    used: dict[str, float] = defaultdict(float)
    for name, slot in snapshot.slots.items():
        if snapshot.jobs[name].queue == "b" and slot in snapshot.holdings:
            placement = snapshot.holdings[slot].placement
            for resource, amount in snapshot.jobs[name].replica.items():
                kind = placement.kind if resource == "gpu" else resource
                used[kind] += amount * placement.replicas
    assert used["gpu/A"] <= 3
    assert used["cpu"] <= 6


@given(worlds())
def test_what_was_decided_leaves_nothing_more_to_start(world: tuple[Snapshot, Policy, float]) -> None:
    snapshot, policy, now = world
    policy = replace(policy, preempt=False, reservations=0)
    carry_out(snapshot, plan(snapshot, policy, now), now)
    assert plan(snapshot, policy, now).starts == ()


def pool(*gpus: int) -> list[Node]:
    return [Node(f"n{i}", {"cpu": 64, "gpu/A": count}) for i, count in enumerate(gpus)]


def gang(number: int, gpus: int, count: int = 1, **more: object) -> Job:
    return Job(f"j{number}", number, 0.0, {"cpu": 1, "gpu": gpus}, count, **more)  # type: ignore[arg-type]


def started(snapshot: Snapshot, policy: Policy, now: float = 0.0) -> list[str]:
    decided = plan(snapshot, policy, now)
    carry_out(snapshot, decided, now)
    return [start.job for start in decided.starts]


def test_a_short_job_passes_a_large_one_that_it_cannot_delay() -> None:
    snapshot = filled(pool(8), jobs={})
    for job in (
        gang(0, 6, estimate=100),
        gang(1, 8, estimate=10),
        gang(2, 2, estimate=90),
        gang(3, 2, estimate=500),
    ):
        snapshot.add(job)
    decided = plan(snapshot, Policy("fcfs"), 0.0)
    assert [start.job for start in decided.starts] == ["j0", "j2"]
    assert [(kept.job, kept.at) for kept in decided.reservations] == [("j1", 100.0)]


def test_what_nobody_can_predict_does_not_starve_a_large_job() -> None:
    snapshot = filled(pool(8))
    snapshot.add(gang(0, 6))
    snapshot.add(gang(1, 8))
    snapshot.add(gang(2, 2))
    assert started(snapshot, Policy("fcfs")) == ["j0"]
    snapshot.remove("j0")
    assert started(snapshot, Policy("fcfs")) == ["j1"]


def test_a_gang_goes_onto_the_fewest_nodes_of_one_rack() -> None:
    snapshot = filled([replace(node, rack=rack) for node, rack in zip(pool(2, 4, 4, 3), "xyxy", strict=True)])
    snapshot.add(gang(0, 1, 6))
    [start] = plan(snapshot, Policy("fcfs"), 0.0).starts
    assert sorted(start.placement.nodes) in ([("n0", 2), ("n2", 4)], [("n1", 4), ("n3", 2)])


def test_best_fit_leaves_whole_nodes_to_large_jobs() -> None:
    snapshot = filled(pool(8, 2, 4))
    snapshot.add(gang(0, 2))
    [start] = plan(snapshot, Policy("fcfs"), 0.0).starts
    assert start.placement == Placement((("n1", 1),), "gpu/A")


def test_least_attained_service_takes_turns() -> None:
    turns = Policy("las", las, preempt=True)
    snapshot = filled(pool(1))
    snapshot.add(gang(0, 1))
    snapshot.add(gang(1, 1))
    assert started(snapshot, turns) == ["j0"]
    assert started(snapshot, turns, 3000.0) == []
    decided = plan(snapshot, turns, 4000.0)
    assert (decided.stops, [start.job for start in decided.starts]) == (("j0",), ["j1"])


def test_a_job_keeps_what_it_has_for_its_minimum_run_time() -> None:
    turns = Policy("las", las, preempt=True)
    snapshot = filled(pool(1))
    snapshot.add(gang(0, 1, min_runtime=5000.0))
    snapshot.add(gang(1, 1))
    assert started(snapshot, turns) == ["j0"]
    assert plan(snapshot, turns, 4000.0) == Plan()


def test_shortest_first_counts_what_a_restart_costs() -> None:
    srtf = Policy("srtf", sjf, preempt=True)
    snapshot = filled(pool(1))
    snapshot.add(gang(0, 1, estimate=100.0))
    assert started(snapshot, srtf) == ["j0"]
    snapshot.add(gang(1, 1, estimate=90.0, restart=30.0))
    assert plan(snapshot, srtf, 1.0).stops == ()
    snapshot.add(gang(2, 1, estimate=50.0, restart=30.0))
    assert plan(snapshot, srtf, 1.0).stops == ("j0",)


def test_fair_gives_by_weight_and_takes_back_what_was_borrowed() -> None:
    queues = [Queue("a", weight=3.0), Queue("b", weight=1.0)]
    snapshot = filled(pool(8), queues)
    for number in range(8):
        snapshot.add(gang(number, 1, queue="b"))
    policy = Policy("fair", fair, preempt=True)
    assert len(started(snapshot, policy)) == 8
    for number in range(8, 16):
        snapshot.add(gang(number, 1, queue="a"))
    decided = plan(snapshot, policy, 1.0)
    assert len(decided.stops) == 6
    assert {start.job for start in decided.starts} == {f"j{number}" for number in range(8, 14)}


@pytest.mark.parametrize("preempt", [False, True])
def test_a_job_runs_on_the_type_on_which_it_is_fastest(preempt: bool) -> None:
    snapshot = filled([Node("slow", {"cpu": 8, "gpu/A": 1}), Node("fast", {"cpu": 8, "gpu/B": 1})])
    snapshot.add(gang(0, 1, speeds={"gpu/A": 1.0, "gpu/B": 3.0}, work=9.0))
    [start] = plan(snapshot, Policy("fcfs", preempt=preempt), 0.0).starts
    assert start.placement.kind == "gpu/B"


def test_what_is_stopping_holds_its_devices() -> None:
    snapshot = filled(pool(1))
    snapshot.add(gang(0, 1))
    snapshot.add(gang(1, 1))
    started(snapshot, Policy("fcfs"))
    snapshot.stopping("j0")
    assert plan(snapshot, Policy("fcfs"), 1.0).starts == ()
    snapshot.wait("j0", 2.0, due=10.0)
    assert started(snapshot, Policy("fcfs"), 3.0) == ["j1"]
    assert snapshot.state[snapshot.slots["j0"]] == WAITING


@pytest.mark.parametrize(
    "algorithm",
    ["srtf", "edf", "las", "proportional", "utility", "max-min", "soonest", "dynamic"],
)
@pytest.mark.parametrize("limit", [{}, {"gpu/A": 4}])
def test_who_is_stopped_for_a_job_does_not_come_back_before_it(
    algorithm: str, limit: dict[str, float]
) -> None:
    """They stop one after the other, and what the first leaves is not enough for the one that they were stopped for."""
    decide = compose(Chosen(algorithm))
    snapshot = filled(pool(2, 2), [Queue("q", limit=limit)])
    for number in (0, 1):
        snapshot.add(gang(number, 2, work=9e3, speeds={"gpu/A": 1.0}, restart=5.0, queue="q"))
    carry_out(snapshot, decide(snapshot, 0.0, True), 0.0)
    # One of them is expected to end long before the other would have.
    snapshot.progress("j0", 5e3)
    snapshot.progress("j1", 1e3)
    large = gang(2, 2, 2, work=100.0, speeds={"gpu/A": 1.0}, deadline=1e5, weight=9.0, queue="q")
    snapshot.add(replace(large, submitted=4e3))
    decided = decide(snapshot, 4e3, True)
    assert sorted(decided.stops) == ["j0", "j1"]
    for name in decided.stops:
        snapshot.stopping(name)
    for now, stopped in ((4001.0, ""), (4002.0, "j0"), (4003.0, "j1")):
        if stopped:
            snapshot.wait(stopped, now)
        decided = decide(snapshot, now, False)
        assert [start.job for start in decided.starts] == (["j2"] if stopped == "j1" else [])
        carry_out(snapshot, decided, now)
