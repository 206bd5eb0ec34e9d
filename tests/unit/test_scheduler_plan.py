"""The plan: conservation, order, no starvation, honest reasons."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aios.names import JobName
from aios.scheduling import Scheduling
from services.scheduler import jobs
from services.scheduler.jobs import Job
from services.scheduler.nodes import Node, NodeState
from services.scheduler.plan import Snapshot, Unplaceable, check_placeable, plan
from services.scheduler.policies import Policy
from services.scheduler.pool import Pool
from services.scheduler.resources import Resources, grant
from services.scheduler.specs import JobSpec

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FCFS = Policy("fcfs")

requests = st.builds(
    Resources,
    st.integers(1, 6),
    st.integers(0, 6),
    st.dictionaries(st.sampled_from(["gpu", "gpu/A", "gpu/B"]), st.integers(0, 3), max_size=2),
)
capacities = st.builds(
    Resources,
    st.integers(0, 8),
    st.integers(0, 8),
    st.dictionaries(st.sampled_from(["gpu/A", "gpu/B"]), st.integers(0, 4), max_size=2),
)


def job(number: int, resources: Resources) -> Job:
    spec = JobSpec(("true",), resources)
    made = jobs.create(JobName("p", f"j{number}"), spec, NOW)
    return replace(made, number=number)


def overlap(one: Resources, other: Resources) -> Resources:
    """The smaller of each amount."""
    return Resources(
        min(one.cpu_millis, other.cpu_millis),
        min(one.memory_bytes, other.memory_bytes),
        {kind: min(count, one.accelerators.get(kind, 0)) for kind, count in other.accelerators.items()},
    )


def holder(number: int, node: str, resources: Resources) -> Job:
    """A job that runs there."""
    return jobs.assign(job(1000 + number, resources), [node], resources, NOW)


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    nodes = [
        Node(name, draw(st.sampled_from(NodeState)), draw(capacities))
        for name in "abc"[: draw(st.integers(0, 3))]
    ]
    holding = [
        holder(number, node.name, held)
        for number, node in enumerate(nodes)
        if draw(st.booleans()) and (held := overlap(node.capacity, draw(capacities))) != Resources()
    ]
    queue = [job(number, request) for number, request in enumerate(draw(st.lists(requests, max_size=8)))]
    return Snapshot(draw(st.permutations(queue)), nodes, holding)


@given(snapshots())
def test_no_node_is_given_more_than_it_has(snapshot: Snapshot) -> None:
    used: dict[str, Resources] = {}
    for each in snapshot.holding:
        assert each.attempt is not None
        used[each.attempt.node] = each.attempt.granted
    for start in plan(snapshot, NOW).starts:
        used[start.nodes[0]] = used.get(start.nodes[0], Resources()) + start.granted
    for node in snapshot.nodes:
        assert node.capacity.holds(used.get(node.name, Resources()))


@given(snapshots())
def test_every_job_starts_on_a_ready_node_or_has_a_reason(snapshot: Snapshot) -> None:
    made = plan(snapshot, NOW)
    ready = {node.name for node in snapshot.nodes if node.state is NodeState.READY}
    started = [start.job for start in made.starts]
    assert {start.nodes[0] for start in made.starts} <= ready
    assert sorted([*started, *made.reasons]) == sorted(job.name for job in snapshot.queue)


BACKFILLED = Snapshot(
    [job(0, Resources(1, 6, {"gpu/A": 3})), job(1, Resources(1, 1))],
    [Node("a", NodeState.READY, Resources(2, 7, {"gpu/A": 3}))],
    [holder(0, "a", Resources(0, 2, {"gpu/A": 1}))],
)
"""The younger job takes memory that the older one does not wait for."""


@given(snapshots())
@example(BACKFILLED)
def test_a_younger_job_changes_nothing_for_an_older_one(snapshot: Snapshot) -> None:
    oldest_first = sorted(snapshot.queue, key=lambda job: job.number)
    snapshot = replace(snapshot, policy=FCFS)
    whole = plan(snapshot, NOW)
    for count in range(len(oldest_first)):
        part = plan(replace(snapshot, queue=oldest_first[:count]), NOW)
        older = {job.name for job in oldest_first[:count]}
        assert [start for start in whole.starts if start.job in older] == list(part.starts)
        assert {name: whole.reasons[name] for name in part.reasons} == part.reasons


@given(snapshots())
def test_the_oldest_job_that_some_ready_node_can_hold_starts_on_an_empty_pool(snapshot: Snapshot) -> None:
    able = [
        each
        for each in snapshot.queue
        if any(
            node.state is NodeState.READY and grant(node.capacity, each.spec.resources)
            for node in snapshot.nodes
        )
    ]
    if able:
        first = min(able, key=lambda each: each.number)
        starts = plan(Snapshot(snapshot.queue, snapshot.nodes, policy=FCFS), NOW).starts
        assert first.name in [start.job for start in starts]


def test_small_jobs_do_not_starve_a_large_one() -> None:
    # Two small jobs hold half each; one ends at a time and small ones keep coming.
    node, small, large = Node("a", NodeState.READY, Resources(2000)), Resources(1000), Resources(2000)
    queue = [job(1, large), *(job(number, small) for number in range(2, 9))]
    assert plan(Snapshot(queue, [node], [holder(1, "a", Resources(1000))]), NOW).starts == []
    assert [start.job.job for start in plan(Snapshot(queue, [node]), NOW).starts] == ["j1"]


def test_a_job_that_needs_none_of_what_is_awaited_goes_ahead() -> None:
    node = Node("a", NodeState.READY, Resources(2000, 100, {"gpu/A": 1}))
    queue = [job(1, Resources(500, 0, {"gpu": 1})), job(2, Resources(1500))]
    made = plan(Snapshot(queue, [node], [holder(1, "a", Resources(0, 0, {"gpu/A": 1}))]), NOW)
    assert [start.job.job for start in made.starts] == ["j2"]
    assert made.reasons[queue[0].name].message == "waits for 1 gpu/A: node a has 0 free of 1"


def test_best_fit_keeps_devices_and_room_for_those_who_need_them() -> None:
    nodes = [
        Node("big", NodeState.READY, Resources(8000)),
        Node("gpu", NodeState.READY, Resources(1000, 0, {"gpu/A": 1})),
        Node("small", NodeState.READY, Resources(2000)),
    ]
    assert plan(Snapshot([job(1, Resources(1000))], nodes), NOW).starts[0].nodes[0] == "small"


def test_reasons_name_the_figures() -> None:
    node = Node("a", NodeState.READY, Resources(2000, 4 * 2**30))
    queue = [job(1, Resources(2000)), job(2, Resources(500)), job(3, Resources(100, 2**40))]
    made = plan(Snapshot(queue, [node], [holder(1, "a", Resources(1500, 2**30))]), NOW)
    assert [made.reasons[each.name].message for each in queue] == [
        "waits for 2000 cpu millicores: node a has 500 free of 2000",
        "waits behind projects/p/jobs/j1, which comes first and is next on node a",
        "asks for 1024.0 GiB of memory, more than any node has: a comes nearest with 4.0 GiB",
    ]


def test_a_pause_is_waited_for_and_blocks_nobody() -> None:
    node = Node("a", NodeState.READY, Resources(1000))
    pausing = replace(job(1, Resources(1000)), retry_time=NOW + timedelta(seconds=5))
    made = plan(Snapshot([pausing, job(2, Resources(1000))], [node]), NOW)
    assert [start.job.job for start in made.starts] == ["j2"]
    assert made.reasons[pausing.name].code == "PAUSED"
    # A wall clock that was set back a year stretches no pause.
    assert plan(Snapshot([pausing], [node]), NOW - timedelta(days=365)).starts


def test_what_no_node_could_ever_hold_is_refused_unless_the_pool_is_empty() -> None:
    lost = Node("a", NodeState.LOST, Resources(2000))
    check_placeable(Resources(4000), [])
    check_placeable(Resources(2000), [lost])
    with pytest.raises(Unplaceable, match="asks for 4000 cpu millicores") as raised:
        check_placeable(Resources(4000), [lost])
    assert raised.value.fields.keys() == {"job.spec.resources"}


def test_a_job_that_is_to_run_elsewhere_is_stopped_first() -> None:
    nodes = [
        Node(name, NodeState.READY, Resources(1000, 0, {f"gpu/{kind}": 1}))
        for name, kind in (("slow", "A"), ("fast", "B"))
    ]
    said = Scheduling(speeds={"gpu/A": 1.0, "gpu/B": 10.0}, preemptible=True)
    spec = JobSpec(("true",), Resources(1000, 0, {"gpu": 1}), scheduling=said)
    waits = replace(jobs.create(JobName("p", "j1"), spec, NOW), number=1)
    runs = jobs.assign(waits, ["slow"], Resources(1000, 0, {"gpu/A": 1}), NOW)
    pool, later = Pool(), NOW + timedelta(hours=1)
    seen = Snapshot((), nodes, [runs], Policy("soonest"))
    first = plan(seen, later, preempt=True, pool=pool)
    assert (first.starts, first.stops) == ([], (waits.name,))
    seen = Snapshot([replace(waits, epoch=1)], nodes, (), Policy("soonest"))
    then = plan(seen, later + timedelta(seconds=5), preempt=True, pool=pool)
    assert [start.nodes[0] for start in then.starts] == ["fast"]


def test_what_no_node_is_labelled_is_refused_and_waited_for_by_name() -> None:
    node = Node("a", NodeState.READY, Resources(2000), labels={"zone": "x"})
    picky = Scheduling(node_selector={"zone": "y"})
    with pytest.raises(Unplaceable, match="selects nodes with zone=y, and there is none"):
        check_placeable(Resources(1000), [node], picky)
    spec = JobSpec(("true",), Resources(1000), scheduling=picky)
    waits = replace(jobs.create(JobName("p", "j1"), spec, NOW), number=1)
    made = plan(Snapshot([waits], [node]), NOW)
    assert not made.starts
    assert made.reasons[waits.name].message == "selects nodes with zone=y, and there is none"


def test_a_taint_keeps_away_who_does_not_tolerate_it_and_labels_that_are_preferred_come_first() -> None:
    lab = Node("a", NodeState.READY, Resources(4000), labels={"taint/for": "lab", "disk": "ssd"})
    anyone = Node("b", NodeState.READY, Resources(2000), labels={"zone": "x"})

    def waiting(**said: Any) -> Job:
        spec = JobSpec(("true",), Resources(1000), scheduling=Scheduling(**said))
        return replace(jobs.create(JobName("p", "j1"), spec, NOW), number=1)

    def goes_to(job: Job, *nodes: Node) -> list[str]:
        return [start.nodes[0] for start in plan(Snapshot([job], nodes), NOW).starts]

    assert goes_to(waiting(), lab, anyone) == ["b"], "the other is tainted"
    assert goes_to(waiting(tolerations={"for": "lab"}), lab, anyone) == ["b"], "it leaves less over there"
    both = {"tolerations": {"for": ""}, "node_preference": {"disk": "ssd"}}
    assert goes_to(waiting(**both), lab, anyone) == ["a"], "it prefers that one"
    assert goes_to(waiting(node_preference={"disk": "ssd"}), lab, anyone) == ["b"], "no more than prefers"
    with pytest.raises(Unplaceable, match="does not tolerate for=lab: a taint of node a"):
        check_placeable(Resources(1000), [lab], Scheduling(tolerations={"for": "others"}))
    made = plan(Snapshot([waiting()], [lab]), NOW)
    reason = made.reasons[JobName("p", "j1")]
    assert (reason.code, reason.message) == (
        "WAITS_FOR_NODE",
        "does not tolerate for=lab: a taint of node a",
    )
