"""More deployments than fit: the longest idle one that may sleep makes room, and no other."""

from dataclasses import replace
from datetime import UTC, datetime

from aios.names import DeploymentName, RevisionName
from services.inference import replicas, room
from services.inference.deployments import Deployment, Resources, Spec
from services.inference.policies import Scaling
from services.inference.replicas import Replica
from services.inference.revisions import Artifact, Revision, State
from services.inference.rollout import Rollout, scale

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MAY_SLEEP, PINNED = Scaling(minimum=0, maximum=1), Scaling(minimum=1, maximum=1)
SMALL = Resources(500, 1 << 29)


def deployed(
    name: str,
    replica: replicas.State = replicas.State.READY,
    *,
    scaling: Scaling = MAY_SLEEP,
    resources: Resources = SMALL,
    wanted: int = 1,
) -> Rollout:
    spec = Spec("projects/demo/models/m/versions/1", 1, resources, scaling=scaling)
    deployment = Deployment(DeploymentName("demo", name), spec, 1, NOW, NOW)
    one = replace(replicas.plan(deployment.revision(1), 0), state=replica)
    revision = Revision(
        deployment.revision(1), spec, Artifact("", b""), NOW, State.LIVE, wanted=wanted, replicas=(one,)
    )
    return Rollout(deployment, (revision,))


IDLE = {"a": 5.0, "b": 50.0, "c": 500.0, "busy": 0.2}
WAITS = deployed("waits", replicas.State.WAITING)


def idle(name: RevisionName) -> float:
    return IDLE[name.deployment]


def job(rollout: Rollout) -> Replica:
    return rollout.latest.replicas[0]


def chosen(*others: Rollout, waits: Rollout = WAITS, made: list[Resources] | None = None) -> str | None:
    name = job(waits).job
    found = room.make([waits, *others], {name}, idle, {name: made or []})
    return found.asleep.deployment.name.deployment if found else None


def test_who_was_asked_the_longest_ago_sleeps() -> None:
    assert chosen(deployed("a"), deployed("b")) == "b"


def test_who_is_pinned_asked_or_gone_stays() -> None:
    asleep = deployed("c", wanted=0)
    assert chosen(deployed("a"), deployed("c", scaling=PINNED), deployed("busy"), asleep) == "a"
    assert chosen(deployed("c", scaling=Scaling())) is None, "without a rule it has the replicas it was given"
    assert chosen(deployed("c", replicas.State.STARTING)) is None


def test_who_has_just_begun_to_wait_takes_nobodys_place() -> None:
    assert room.make([WAITS, deployed("a")], (), idle, {}) is None


def test_a_deployment_that_answers_takes_nobodys_place_to_grow() -> None:
    ready = deployed("waits")
    more = replace(job(WAITS), job=replace(job(WAITS).job, job="waits-r1-1"))
    grows = ready.replace(replace(ready.latest, replicas=(job(ready), more)))
    assert room.waiting([grows]) == []


def test_one_at_a_time_and_no_more_than_is_asked_for() -> None:
    going = deployed("c", replicas.State.LEAVING, wanted=0)
    assert chosen(deployed("a"), going, made=[Resources(100, 1 << 20)]) is None
    assert chosen(deployed("a"), made=[SMALL]) is None, (
        "it has what it asks for, and waits for something else"
    )
    large = deployed("waits", replicas.State.WAITING, resources=Resources(1000, 1 << 30))
    assert chosen(deployed("a"), waits=large, made=[SMALL]) == "a"


def test_only_who_holds_a_device_makes_room_for_one() -> None:
    device = Resources(500, 1 << 29, {"h200": 1})
    waits = deployed("waits", replicas.State.WAITING, resources=device)
    assert chosen(deployed("c"), deployed("a", resources=device), waits=waits) == "a"


def test_why_it_sleeps_is_said_until_it_wakes() -> None:
    name = job(WAITS).job
    found = room.make([WAITS, deployed("b")], {name}, idle, {})
    assert found is not None
    asleep = scale(found.asleep, {1: 0}, found.reason)
    assert asleep.latest.message == "sleeps since waits needed room: nobody had asked it for 50 s"
    assert scale(asleep, {1: 1}).latest.message == ""
