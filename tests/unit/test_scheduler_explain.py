"""Explanations: honest about what is known, silent about others' jobs, right about what would help."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from aios.names import JobName
from aios.scheduling import Scheduling
from services.scheduler import jobs
from services.scheduler.attempts import Attempt, AttemptState
from services.scheduler.explain import Explanation, explain
from services.scheduler.jobs import Job
from services.scheduler.nodes import Node, NodeState
from services.scheduler.plan import Snapshot
from services.scheduler.policies import Policy
from services.scheduler.queues import Queue
from services.scheduler.resources import Resources
from services.scheduler.specs import JobSpec, Kind

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
FCFS = Policy("fcfs")


def gpus(count: int, kind: str = "gpu/A") -> Resources:
    return Resources(100, 0, {kind: count})


def job(number: int, resources: Resources, project: str = "p", minutes: float = 0, **spec: object) -> Job:
    said = Scheduling(expected_duration=timedelta(minutes=minutes) if minutes else None)
    made = jobs.create(
        JobName(project, f"j{number}"),
        JobSpec(("true",), resources, scheduling=said, **spec),  # type: ignore[arg-type]
        NOW - timedelta(minutes=30) + timedelta(seconds=number),
    )
    return replace(made, number=number)


def running(each: Job, node: str = "a") -> Job:
    [kind] = each.spec.resources.accelerators or ["gpu/A"]
    since = NOW - timedelta(minutes=10)
    return jobs.assign(each, [node], replace(each.spec.resources) if kind else Resources(), since)


def told(
    waiting: Job,
    holding: Sequence[Job] = (),
    nodes: Sequence[Node] = (Node("a", NodeState.READY, Resources(4000, 0, {"gpu/A": 4})),),
    ahead: Sequence[Job] = (),
    queues: Sequence[Queue] = (),
    history: Sequence[float] = (),
    policy: Policy = FCFS,
) -> Explanation:
    snapshot = Snapshot([*ahead, waiting], nodes, holding, policy, queues)
    return explain(
        waiting, snapshot, (), history, NOW, may_see=lambda other: other.project == waiting.name.project
    )


def test_it_starts_when_the_job_that_holds_its_devices_is_expected_to_end() -> None:
    found = told(job(2, gpus(2)), [running(job(1, gpus(3), minutes=30))])
    assert found.reason.code == "WAITS_FOR_ACCELERATOR"
    assert found.prediction is not None
    assert found.prediction.basis == "ESTIMATE"
    assert found.prediction.earliest < found.prediction.start < (found.prediction.latest or NOW)
    # Expected to end in 20 minutes; people are often wrong by a factor of two.
    assert timedelta(minutes=10) < found.prediction.start - NOW < timedelta(minutes=40)
    [holder] = found.holders
    assert (str(holder.job), holder.held["gpu/A"]) == ("projects/p/jobs/j1", 3)
    assert holder.end == NOW + timedelta(minutes=20)


def test_what_was_told_to_stop_holds_nobody_up() -> None:
    ahead = running(job(1, gpus(3), minutes=300))
    for stops in (jobs.preempt(ahead, NOW), jobs.cancel(ahead, NOW)):
        found = told(job(2, gpus(2), minutes=1), [stops], policy=Policy("srtf"))
        [holder] = found.holders
        assert (holder.end, found.prediction and found.prediction.start) == (NOW, NOW)


def test_where_nothing_is_known_no_time_is_made_up() -> None:
    found = told(job(2, gpus(2)), [running(job(1, gpus(3)))])
    assert found.prediction is None
    assert "nothing is known of how long" in found.unpredicted
    assert "projects/p/jobs/j1" in found.unpredicted
    # Enough jobs that ended say something of one that runs.
    known = told(job(2, gpus(2)), [running(job(1, gpus(3)))], history=[700.0, 800.0, 900.0, 1000.0] * 4)
    assert known.prediction is not None
    assert known.prediction.basis == "HISTORY"
    assert known.prediction.start - NOW < timedelta(seconds=401)


def test_services_end_when_somebody_stops_them() -> None:
    found = told(job(2, gpus(2)), [running(job(1, gpus(3), kind=Kind.SERVICE))])
    assert found.prediction is None
    assert found.unpredicted.startswith("Services hold")
    assert found.holders[0].end is None


def test_others_jobs_have_no_names() -> None:
    found = told(job(3, gpus(2)), [running(job(1, gpus(1), "secret")), running(job(2, gpus(2), "secret"))])
    [others] = found.holders
    assert (others.job, others.jobs, others.held["gpu/A"]) == (None, 2, 3)
    whole = [found.reason.message, found.unpredicted, *(each.message for each in found.alternatives)]
    assert not any("secret" in text for text in whole)
    behind = told(job(5, Resources(4000)), ahead=[job(4, Resources(4000), "secret")])
    assert "secret" not in behind.reason.message


def test_alternatives_are_tried_on_the_engine_itself() -> None:
    nodes = [
        Node("a", NodeState.READY, Resources(4000, 0, {"gpu/A": 4})),
        Node("b", NodeState.READY, Resources(4000, 0, {"gpu/B": 4})),
    ]
    found = told(job(2, gpus(4)), [running(job(1, gpus(2), minutes=60))], nodes)
    messages = {each.code: each.message for each in found.alternatives}
    assert messages["FEWER_RESOURCES"] == "starts now with 2 gpu/A instead of 4"
    assert messages["OTHER_TYPE"] == "starts now on 4 gpu/B"
    assert messages["JOB_ENDS"] == "starts now if projects/p/jobs/j1 ends"
    assert all(each.start == NOW for each in found.alternatives)


def test_nodes_that_its_labels_or_their_taints_keep_it_from_are_named() -> None:
    nodes = [
        Node("a", NodeState.READY, Resources(4000, 0, {"gpu/A": 4}), labels={"zone": "x"}),
        Node("b", NodeState.READY, Resources(4000, 0, {"gpu/A": 4}), labels={"zone": "y"}),
        Node(
            "c", NodeState.READY, Resources(4000, 0, {"gpu/A": 4}), labels={"zone": "x", "taint/for": "lab"}
        ),
    ]
    waiting = job(2, gpus(4))
    picky = replace(waiting, spec=replace(waiting.spec, scheduling=Scheduling(node_selector={"zone": "x"})))
    found = told(picky, [running(job(1, gpus(4), minutes=60))], nodes)
    assert [each.message for each in found.alternatives if each.code == "OTHER_NODES"] == [
        "starts now without the node_selector zone=x",
        "starts now if it tolerates for=lab",
    ]


def test_a_job_behind_another_is_told_no_alternative_that_would_not_help() -> None:
    # j2 waits for the whole node; j3 would fit into what is free, and delay it.
    holds, large = running(job(1, gpus(2), minutes=60)), job(2, gpus(4), minutes=60)
    found = told(job(3, gpus(2), minutes=600), [holds], ahead=[large])
    assert found.reason.code == "WAITS_BEHIND"
    assert "FEWER_RESOURCES" not in {each.code for each in found.alternatives}


def test_what_a_queue_has_borrowed_would_start_it() -> None:
    queues = [Queue("p", nominal={"gpu/A": 2}), Queue("q", nominal={"gpu/A": 1})]
    found = told(
        job(3, gpus(2)),
        [running(job(1, gpus(1), "q", minutes=5)), running(job(2, gpus(3), "q", minutes=60))],
        queues=queues,
    )
    returned = [each.message for each in found.alternatives if each.code == "QUEUE_RETURNS"]
    assert returned == ["starts now if queues/q returns the 3 gpu/A that it borrows"]


def test_a_limit_is_named_with_those_who_use_it_up() -> None:
    found = told(
        job(2, gpus(2)), [running(job(1, gpus(2), minutes=20))], queues=[Queue("p", limit={"gpu": 3})]
    )
    assert found.reason.code == "WAITS_FOR_QUOTA"
    assert found.reason.message == "waits for 2 gpu of queues/p: it uses 2 gpu of the 3 gpu that it may"
    assert [str(each.job) for each in found.holders] == ["projects/p/jobs/j1"]
    assert "starts now if the limit of queues/p is raised" in [each.message for each in found.alternatives]


@pytest.mark.parametrize("algorithm", ["fcfs", "balanced", "fair", "las", "srtf", "priority"])
def test_every_policy_looks_ahead(algorithm: str) -> None:
    found = told(job(2, gpus(4), minutes=5), [running(job(1, gpus(4), minutes=30))], policy=Policy(algorithm))
    assert found.prediction is not None


def test_what_a_job_has_been_through_is_told() -> None:
    name = JobName("p", "j1")
    ended = [
        Attempt(name, 1, "a", AttemptState.ENDED, end_reason="PREEMPTED", end_time=NOW),
        Attempt(name, 2, "b", AttemptState.LOST, end_time=NOW),
    ]
    now = running(job(1, gpus(1)))
    assert now.attempt is not None
    started = jobs.report(now, replace(now.attempt, state=AttemptState.RUNNING, start_time=NOW), NOW)
    found = explain(started, Snapshot((), ()), ended, (), NOW, may_see=lambda _: True)
    assert found.reason.code == "RUNNING"
    assert found.reason.message == (
        "runs on node a since 12:00:00 UTC, attempt 1; was stopped for others once, last 12:00:00 UTC;"
        " lost its node once, last b"
    )
    assert (len(found.preempted), found.lost) == (1, 1)


def test_a_gang_is_told_with_how_many_replicas_it_would_start_and_who_holds_the_rest() -> None:
    nodes = [Node(name, NodeState.READY, Resources(4000, 0, {"gpu/A": 4})) for name in ("a", "b")]
    held = [running(job(1, gpus(2), minutes=30)), running(job(2, gpus(3), minutes=30), "b")]
    found = told(job(3, gpus(2), replicas=4), held, nodes)
    assert found.reason.message == "waits for 4 replicas at once: all nodes together hold 1 now"
    assert {str(each.job) for each in found.holders} == {"projects/p/jobs/j1", "projects/p/jobs/j2"}
    assert "starts now with 1 replica instead of 4" in [each.message for each in found.alternatives]
    found = told(job(3, gpus(2), replicas=3), held, nodes)
    assert "starts now if projects/p/jobs/j2 ends" in [each.message for each in found.alternatives]
