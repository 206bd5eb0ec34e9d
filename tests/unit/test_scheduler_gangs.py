"""Gangs: several processes of one job on several nodes, with one start and one end."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios.errors import InvalidArgument, StaleEpoch
from aios.names import JobName
from aios.scheduling import Scheduling, Topology
from services.scheduler import attempts, jobs, mapping, specs
from services.scheduler.attempts import LIVE, PLATFORM_ENDS, RENDEZVOUS, Attempt, AttemptState
from services.scheduler.jobs import Job, State
from services.scheduler.nodes import Node, NodeState, edit
from services.scheduler.plan import Snapshot, Unplaceable, check_placeable, plan
from services.scheduler.policies import Policy
from services.scheduler.resources import Resources
from services.scheduler.specs import JobSpec, Kind

NOW = datetime(2030, 1, 1, tzinfo=UTC)
NAME = JobName("p", "gang")
ONE = Resources(1000)
PORTS = {RENDEZVOUS: 20_000}


def waiting(replicas: int = 3, **spec: object) -> Job:
    made = JobSpec(("true",), ONE, replicas=replicas, **spec)  # type: ignore[arg-type]
    return jobs.create(NAME, made, NOW)


def started(nodes: str = "aab", **spec: object) -> Job:
    return jobs.assign(waiting(len(nodes), **spec), list(nodes), ONE, NOW)


def said(job: Job, rank: int, state: AttemptState, **end: object) -> Attempt:
    assert job.attempt is not None
    node, ports = job.attempt.nodes[rank], PORTS if rank == 0 else {}
    return Attempt(NAME, job.epoch, node, state, host=node, ports=ports, rank=rank, **end)  # type: ignore[arg-type]


def runs(job: Job, *ranks: int) -> Job:
    for rank in ranks:
        job = jobs.report(job, said(job, rank, AttemptState.RUNNING), NOW)
    return job


def ends(job: Job, rank: int, code: int | None = 0, reason: str = "") -> Job:
    return jobs.report(job, said(job, rank, AttemptState.ENDED, exit_code=code, end_reason=reason), NOW)


def running(**spec: object) -> Job:
    return runs(started("aab", **spec), 0, 1, 2)


def test_a_gang_runs_when_all_of_it_does_and_meets_where_the_first_process_listens() -> None:
    job = started()
    assert job.attempt is not None
    assert attempts.meeting_point(job.attempt) is None
    job = runs(job, 0, 1)
    assert job.state is State.STARTING
    job = runs(job, 2)
    assert job.attempt is not None
    assert (job.state, job.message) == (State.RUNNING, "runs on 2 nodes: a, b")
    assert attempts.meeting_point(job.attempt) == ("a", 20_000)


def test_a_gang_succeeds_when_all_have() -> None:
    job = ends(ends(running(), 1), 0)
    assert job.state is State.RUNNING
    job = ends(job, 2)
    assert job.attempt is not None
    assert (job.state, job.attempt.exit_code) == (State.SUCCEEDED, 0)


def test_the_first_that_fails_stops_the_others_and_the_job_goes_on_when_all_are_gone() -> None:
    job = ends(running(max_restarts=1), 1, 7)
    assert (job.state, job.reason) == (State.STOPPING, jobs.REPLICA_ENDED)
    assert job.message == "replica 1 on node a ended with exit code 7: the other replicas are stopped"
    job = ends(ends(job, 0, 143), 2, 143)
    assert job.attempt is not None
    assert (job.state, job.failures, job.attempt.exit_code) == (State.QUEUED, 1, 7)
    # Its other attempt has used the budget.
    job = ends(runs(jobs.assign(job, ["a", "b", "b"], ONE, NOW), 0, 1, 2), 2, 9)
    job = ends(ends(job, 0, 143), 1, 143)
    assert (job.state, job.reason) == (State.FAILED, "EXIT_CODE")


def test_a_lost_node_is_to_blame_for_what_the_others_died_of() -> None:
    job = ends(running(), 0, 1)  # it lost the connection first
    job = ends(job, 1, 143)
    assert job.state is State.STOPPING
    job = jobs.lose(job, NOW, "b")
    assert job.attempt is not None
    assert (job.state, job.reason, job.failures) == (State.QUEUED, jobs.NODE_LOST, 0)
    assert job.attempt.state is AttemptState.LOST


def test_a_node_that_stops_is_no_failure_of_the_job() -> None:
    job = ends(running(), 2, 143, "NODE_STOPPED")
    job = ends(ends(job, 0, 1), 1, 1)
    assert (job.state, job.reason, job.failures) == (State.QUEUED, "NODE_STOPPED", 0)


def test_what_was_stopped_before_it_began_hides_no_failure() -> None:
    job = ends(runs(started(), 0), 0, 3)
    job = ends(ends(job, 1, None, "NOT_STARTED"), 2, None, "NOT_STARTED")
    assert (job.state, job.reason) == (State.FAILED, "EXIT_CODE")


def test_a_lost_node_stops_the_rest_before_the_gang_starts_again() -> None:
    job = jobs.lose(running(), NOW, "b")
    assert job.attempt is not None
    assert (job.state, job.attempt.live_nodes) == (State.STOPPING, frozenset("a"))
    with pytest.raises(StaleEpoch):
        ends(job, 2)
    job = ends(ends(job, 0, 143), 1, 143)
    assert (job.state, job.reason) == (State.QUEUED, jobs.NODE_LOST)
    again = jobs.assign(job, ["a", "a", "c"], ONE, NOW)
    with pytest.raises(StaleEpoch):
        jobs.report(again, replace(said(job, 0, AttemptState.RUNNING), epoch=1), NOW)


def test_one_that_gives_way_waits_and_one_that_is_cancelled_is_cancelled_when_all_are_gone() -> None:
    for job, state in (
        (jobs.preempt(running(), NOW), State.QUEUED),
        (jobs.preempt(running(), NOW, 2), State.QUEUED),
        (jobs.cancel(running(), NOW), State.CANCELLED),
        (jobs.cancel(ends(running(), 1, 1), NOW), State.CANCELLED),
    ):
        after = job
        for rank in (0, 1, 2):
            assert after.state is State.STOPPING
            if after.attempt and after.attempt.replicas[rank].state in LIVE:
                after = ends(after, rank, 143)
        assert after.state is state
        assert after.failures == 0


@given(
    st.lists(
        st.tuples(st.sampled_from(["run", "fail", "done", "lose", "stop", "cancel"]), st.integers(0, 2)),
        max_size=12,
    )
)
def test_whatever_happens_it_holds_its_nodes_until_nothing_of_it_can_run(
    story: list[tuple[str, int]],
) -> None:
    job = started()
    for what, rank in story:
        assert job.attempt is not None
        try:
            match what:
                case "run":
                    job = runs(job, rank)
                case "fail":
                    job = ends(job, rank, 1)
                case "done":
                    job = ends(job, rank)
                case "stop":
                    job = ends(job, rank, None, "NODE_STOPPED")
                case "lose":
                    if job.state in jobs.HOLDS_RESOURCES:
                        job = jobs.lose(job, NOW, "aab"[rank])
                case _:
                    job = jobs.cancel(job, NOW)
        except StaleEpoch:
            continue
        assert job.attempt is not None
        live = bool(job.attempt.live_nodes)
        assert live == (job.state in jobs.HOLDS_RESOURCES) == (job.attempt.state in LIVE)
        if job.state is State.SUCCEEDED:
            assert all(each.exit_code == 0 for each in job.attempt.replicas)
        if job.state is State.FAILED:
            assert job.attempt.end_reason not in PLATFORM_ENDS
        stored = mapping.replicas_from_proto(mapping.replicas_to_proto(job.attempt))
        assert stored == job.attempt.replicas


def node(name: str, cores: int) -> Node:
    return Node(name, NodeState.READY, Resources(1000 * cores))


def test_a_gang_starts_whole_on_as_few_nodes_as_hold_it_or_waits() -> None:
    nodes = [node("a", 2), node("b", 2)]
    made = plan(Snapshot([replace(waiting(3), number=1)], nodes), NOW)
    assert [sorted(start.nodes) for start in made.starts] in ([["a", "a", "b"]], [["a", "b", "b"]])
    busy = replace(jobs.assign(waiting(2), ["a", "b"], ONE, NOW), name=JobName("p", "busy"), number=2)
    made = plan(Snapshot([replace(waiting(3), number=1)], nodes, [busy]), NOW)
    assert not made.starts
    assert made.reasons[NAME].code == "WAITS_FOR_GANG"
    assert made.reasons[NAME].message == "waits for 3 replicas at once: all nodes together hold 2 now"


def test_a_gang_that_all_nodes_together_do_not_hold_is_refused() -> None:
    check_placeable(ONE, [node("a", 2), node("b", 1)], replicas=3)
    with pytest.raises(Unplaceable, match="4 replicas, and all nodes together hold 3"):
        check_placeable(ONE, [node("a", 2), node("b", 1)], replicas=4)


@pytest.mark.parametrize(
    "spec",
    [
        JobSpec(("true",), ONE, replicas=0),
        JobSpec(("true",), ONE, replicas=2, kind=Kind.SERVICE),
        JobSpec(("true",), ONE, replicas=2, min_replicas=3),
        JobSpec(("true",), ONE, replicas=2, ports=(RENDEZVOUS,)),
    ],
)
def test_what_no_gang_can_be_is_refused(spec: JobSpec) -> None:
    with pytest.raises(InvalidArgument):
        specs.check(spec)


def test_an_elastic_gang_is_stopped_and_goes_on_with_the_number_of_replicas_that_serves_all_best() -> None:
    policy = Policy("dynamic", preempt_interval=timedelta(seconds=60))
    said = Scheduling(preemptible=True, expected_duration=timedelta(hours=1))
    elastic = replace(waiting(4, min_replicas=1, scheduling=said), number=1)
    nodes = [node("a", 2), node("b", 2)]
    [start] = plan(Snapshot([elastic], nodes, policy=policy), NOW).starts
    assert len(start.nodes) == 4
    held = jobs.assign(elastic, start.nodes, ONE, NOW)
    other = replace(waiting(2), name=JobName("p", "other"), number=2)
    soon, later = NOW + timedelta(seconds=30), NOW + timedelta(seconds=90)
    assert not plan(Snapshot([other], nodes, [held], policy), soon, preempt=True).stops
    made = plan(Snapshot([other], nodes, [held], policy), later, preempt=True)
    assert (list(made.stops), dict(made.resizes)) == ([NAME], {NAME: 2})
    stopping = jobs.preempt(held, later, made.resizes[NAME])
    assert (stopping.reason, stopping.message) == (jobs.RESIZED, "is stopped to go on with 2 replicas")


def placed(job: Job, nodes: list[Node], *held: Job) -> list[str]:
    return [
        node
        for start in plan(Snapshot([replace(job, number=1)], nodes, held), NOW).starts
        for node in start.nodes
    ]


def near(key: str, *, required: bool = True) -> Scheduling:
    return Scheduling(topology=Topology(key, required))


def test_a_gang_that_must_be_together_waits_for_such_nodes_and_one_that_had_better_be_does_not() -> None:
    racks = {"a": "r1", "b": "r2", "c": "r2"}
    nodes = [replace(node(name, 2), labels={"rack": rack}) for name, rack in racks.items()]
    busy = replace(jobs.assign(waiting(1), ["c"], ONE, NOW), name=JobName("p", "busy"), number=2)
    assert sorted(set(placed(waiting(4, scheduling=near("rack")), nodes))) == ["b", "c"]
    assert placed(waiting(4, scheduling=near("rack")), nodes, busy) == []
    assert len(placed(waiting(4, scheduling=near("rack", required=False)), nodes, busy)) == 4
    # What is near may take more nodes than what is not.
    full = replace(jobs.assign(waiting(1), ["b"], ONE, NOW), name=JobName("p", "full"), number=3)
    one_each = waiting(2, scheduling=near("rack", required=False))
    assert placed(one_each, nodes, busy, full) == ["a", "a"]
    assert placed(waiting(2, scheduling=near("node")), nodes, busy, full) == ["a", "a"]
    reason = plan(
        Snapshot([replace(waiting(4, scheduling=near("rack")), number=1)], nodes, [busy]), NOW
    ).reasons[NAME]
    assert (reason.code, reason.message) == (
        "WAITS_FOR_GANG",
        "waits for 4 replicas at once: nodes of one rack hold 3 now",
    )
    with pytest.raises(Unplaceable, match="5 replicas, and nodes of one rack hold 4"):
        check_placeable(ONE, nodes, near("rack"), 5)
    with pytest.raises(Unplaceable, match="3 replicas, and one node holds 2"):
        check_placeable(ONE, nodes, near("node"), 3)


def test_a_node_that_operators_close_takes_nothing_and_says_so() -> None:
    closed = replace(node("a", 2), cordoned=True)
    made = plan(Snapshot([replace(waiting(1), number=1)], [closed]), NOW)
    assert made.reasons[NAME].message == "waits for a node: a is cordoned"
    assert edit(node("a", 2), replace(closed, draining=True), ["cordoned"]) == closed
    with pytest.raises(InvalidArgument):
        edit(node("a", 2), closed, ["labels"])
    with pytest.raises(InvalidArgument):
        edit(node("a", 2), replace(closed, taints={"a b": "c"}), [])
    drained = jobs.drain(running(), NOW)
    for rank in (0, 1, 2):
        drained = ends(drained, rank, 143)
    assert (drained.state, drained.reason, drained.failures) == (State.QUEUED, jobs.DRAINED, 0)
