"""Rolling updates against a world that does what it likes: replicas fail, the gateway lags, specs change."""

from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aios.names import DeploymentName
from services.inference import deployments, replicas, rollout
from services.inference.deployments import Deployment, Spec
from services.inference.replicas import FAILURES_MAX, Address, JobNews, Replica
from services.inference.revisions import Artifact, Revision, State
from services.inference.rollout import Facts, Rollout, advance
from services.inference.routes import DeploymentRoute, RevisionRoute, route

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NAME = DeploymentName("demo", "web")
ADDRESS = Address("127.0.0.1", 8000, 8001)
CANCELLED = JobNews(True, False, False, True, False, 9, "cancelled")


class World:
    """One deployment, the routing tables it made, and the one that Envoy has."""

    def __init__(self, replicas_wanted: int = 1) -> None:
        self.now = self.confirmed = self.in_force = 0
        self.tables: dict[int, DeploymentRoute | None] = {}
        spec = Spec("projects/demo/models/m/versions/1", replicas_wanted)
        self.rollout = Rollout(Deployment(NAME, spec, 0, NOW, NOW), ())
        self.update()

    def take(self, after: Rollout, drained: frozenset[int] = frozenset()) -> None:
        """Take a step and number the routing table that comes of it, as the store does."""
        number = max(self.tables, default=0)
        facts = Facts(NOW, self.confirmed, number + 1, drained)
        stepped = advance(after, facts)
        assert advance(stepped, facts) == stepped, "a step taken twice is one step"
        if not self.tables or route(stepped) != route(self.rollout):
            self.tables[number + 1] = route(stepped)
        self.rollout = stepped

    def update(self) -> None:
        number = self.rollout.deployment.latest + 1
        deployment = replace(self.rollout.deployment, latest=number)
        made = Revision(deployment.revision(number), deployment.spec, Artifact("", b""), NOW)
        self.take(Rollout(deployment, (*self.rollout.revisions, made)))

    def change(self, before: Replica, after: Replica) -> None:
        revision = next(each for each in self.rollout.revisions if before in each.replicas)
        rest = tuple(after if each is before else each for each in revision.replicas)
        self.take(self.rollout.replace(replace(revision, replicas=rest)))

    def delete(self) -> None:
        deployment = rollout.delete(self.rollout.deployment, NOW)
        self.take(replace(self.rollout, deployment=deployment))

    def apply_routes(self) -> None:
        """Envoy takes the newest table."""
        self.in_force = max(self.tables)

    def confirm(self) -> None:
        self.confirmed = self.in_force
        self.take(self.rollout)

    def drain(self) -> None:
        idle = {each.number for each in self.rollout.revisions if rollout.drains(each, self.confirmed)}
        self.take(self.rollout, frozenset(idle))

    def replicas(self, *states: replicas.State) -> list[Replica]:
        found = [each for revision in self.rollout.revisions for each in revision.replicas]
        return [each for each in found if not states or each.state in states]

    def ready_all(self) -> None:
        for each in self.replicas(replicas.State.PLANNED, replicas.State.FAILED, replicas.State.SILENT):
            self.change(each, ready(each))

    def end_stopped(self) -> None:
        for each in self.replicas(replicas.State.STOPPING):
            self.change(each, replicas.follow(each, CANCELLED))

    def settle(self) -> None:
        """Let everything go well until nothing changes any more."""
        for _ in range(20):
            before = self.rollout, self.confirmed
            for step in (self.ready_all, self.apply_routes, self.confirm, self.drain, self.end_stopped):
                step()
            if before == (self.rollout, self.confirmed):
                return
        raise AssertionError("it never comes to rest")

    def revision(self, number: int) -> Revision:
        return next(each for each in self.rollout.revisions if each.number == number)


def ready(replica: Replica) -> Replica:
    epoch = max(1, replica.epoch)
    return replicas.report(replica, epoch, replicas.State.READY, "", ADDRESS)


def failed(replica: Replica, message: str = "no such operator") -> Replica:
    return replicas.report(replica, replica.epoch + 1, replicas.State.FAILED, message, None)


def routed(world: World) -> tuple[RevisionRoute, ...]:
    entry = route(world.rollout)
    assert entry is not None
    return entry.revisions


def live(replicas_wanted: int = 1) -> World:
    world = World(replicas_wanted)
    world.settle()
    return world


def test_the_old_revision_serves_until_the_new_ones_routes_are_confirmed_and_its_requests_have_ended() -> (
    None
):
    world = live()
    world.update()
    world.ready_all()
    old, new = world.rollout.revisions
    assert (old.state, old.weight, new.state, new.weight) == (State.LIVE, 0, State.STARTING, 100)

    world.apply_routes()
    world.confirm()
    old, new = world.rollout.revisions
    assert (old.state, old.weight, new.state) == (State.DRAINING, 0, State.LIVE)
    assert old.ready, "its last requests still run"

    world.drain()
    assert world.revision(1).weight is None
    assert world.revision(1).ready, "Envoy may still have it"
    world.apply_routes()
    world.confirm()
    assert world.replicas(replicas.State.STOPPING) == list(world.revision(1).replicas)
    world.end_stopped()
    assert world.revision(1).state is State.RETIRED
    assert (world.rollout.deployment.state, world.rollout.deployment.live) == (deployments.State.READY, 2)


def test_a_new_revision_waits_until_all_of_its_replicas_answer() -> None:
    world = live(replicas_wanted=2)
    world.update()
    first, second = world.replicas(replicas.State.PLANNED)
    world.change(first, ready(first))
    assert world.revision(2).weight is None
    assert world.rollout.deployment.message == "1 of 2 replicas answer"
    world.change(second, ready(second))
    assert world.revision(2).weight == 100


def test_a_revision_that_keeps_failing_is_given_up_and_the_old_one_answers_on() -> None:
    world = live()
    world.update()
    for _ in range(FAILURES_MAX):
        (broken,) = world.revision(2).replicas
        world.change(broken, failed(broken))
    assert world.rollout.deployment.state is deployments.State.DEGRADED
    assert "no such operator; revision 1 answers" in world.rollout.deployment.message
    world.settle()
    assert (world.revision(1).state, world.revision(1).weight) == (State.LIVE, 100)
    assert (world.revision(2).state, world.revision(2).replicas) == (State.FAILED, ())


def test_a_job_that_was_refused_fails_its_revision_at_once() -> None:
    world = World()
    (planned,) = world.replicas()
    world.change(planned, replicas.refuse(planned, "no node has 64 GiB"))
    assert world.rollout.deployment.state is deployments.State.DEGRADED
    assert "no node has 64 GiB" in world.rollout.deployment.message


def test_a_revision_that_loads_for_too_long_is_given_up() -> None:
    world = World()
    (planned,) = world.replicas()
    facts = Facts(NOW, 0, 9, overdue=frozenset({planned.job}))
    assert advance(world.rollout, facts).latest.state is State.FAILED


def test_a_candidate_that_dies_before_its_routes_are_in_force_gives_the_requests_back() -> None:
    world = live()
    world.update()
    world.ready_all()
    (candidate,) = world.revision(2).replicas
    world.change(candidate, failed(candidate))
    assert (world.revision(1).weight, world.revision(2).weight) == (100, 0)


def test_a_newer_spec_sets_aside_a_revision_that_never_answered() -> None:
    world = live()
    world.update()
    world.update()
    assert world.revision(2).state is State.DRAINING
    world.settle()
    assert world.revision(2).state is State.RETIRED
    assert world.revision(2).live_time is None
    assert world.rollout.deployment.live == 3


def test_a_live_revision_gets_a_new_replica_for_one_whose_job_was_cancelled() -> None:
    world = live(replicas_wanted=2)
    gone, kept = world.replicas()
    world.change(gone, replicas.follow(gone, CANCELLED))
    assert [each.job.job for each in world.replicas()] == [kept.job.job, "web-r1-2"]
    assert world.rollout.deployment.state is deployments.State.READY
    assert world.rollout.deployment.message == "1 of 2 replicas answer"


def test_a_deleted_deployment_leaves_the_routes_before_its_replicas_stop() -> None:
    world = live()
    world.delete()
    assert route(world.rollout) is None
    world.drain()
    assert world.revision(1).ready, "the table without it is not in force yet"
    world.apply_routes()
    world.confirm()
    assert world.revision(1).ready, "its last requests still run"
    world.drain()
    world.settle()
    assert world.rollout.gone


def test_the_last_replicas_to_fall_silent_stay_routed_and_one_of_several_does_not() -> None:
    world = live(replicas_wanted=2)
    first, second = world.replicas()
    world.change(first, replicas.fall_silent(first, 6))
    assert [each.job for each in routed(world)[0].endpoints] == [second.job]
    world.change(second, replicas.fall_silent(second, 6))
    assert len(routed(world)[0].endpoints) == 2
    assert world.rollout.deployment.state is deployments.State.DEGRADED


def test_a_revision_without_a_replica_asks_for_no_requests_so_that_the_gateway_waits_for_nobody() -> None:
    world = live()
    (only,) = world.replicas()
    world.change(only, failed(only))
    assert [(each.weight, each.endpoints) for each in routed(world)] == [(0, ())]
    (again,) = world.replicas()
    world.change(again, ready(again))
    assert routed(world)[0].weight == 100


class Rollouts(RuleBasedStateMachine):
    """Every order of events that can happen."""

    @initialize(wanted=st.integers(1, 3))
    def start(self, wanted: int) -> None:
        self.world = World(wanted)

    @precondition(lambda self: not self.world.rollout.deleting and self.world.rollout.deployment.latest < 5)
    @rule()
    def update(self) -> None:
        self.world.update()

    @rule(data=st.data())
    def a_replica_is_ready(self, data: st.DataObject) -> None:
        self._change(data, ready)

    @rule(data=st.data())
    def a_replica_fails(self, data: st.DataObject) -> None:
        self._change(data, failed)

    @rule(data=st.data())
    def a_replica_falls_silent(self, data: st.DataObject) -> None:
        if found := self.world.replicas(replicas.State.READY):
            chosen = data.draw(st.sampled_from(found))
            self.world.change(chosen, replicas.fall_silent(chosen, 6))

    @rule(data=st.data())
    def somebody_cancels_a_job(self, data: st.DataObject) -> None:
        self._change(data, lambda each: replicas.follow(each, CANCELLED))

    @rule()
    def stopped_jobs_end(self) -> None:
        self.world.end_stopped()

    @rule()
    def envoy_takes_the_newest_routes(self) -> None:
        self.world.apply_routes()

    @rule()
    def the_gateway_confirms(self) -> None:
        self.world.confirm()

    @rule()
    def the_drain_period_passes(self) -> None:
        self.world.drain()

    @precondition(lambda self: self.world.rollout.deployment.latest > 2)
    @rule()
    def delete(self) -> None:
        self.world.delete()

    @invariant()
    def what_envoy_sends_requests_to_is_never_stopped(self) -> None:
        in_force = self.world.tables.get(self.world.in_force)
        for each in in_force.revisions if in_force else ():
            if each.weight:
                revision = next(one for one in self.world.rollout.revisions if one.name == each.revision)
                assert revision.weight is not None
                assert all(one.state is not replicas.State.STOPPING for one in revision.replicas)

    @invariant()
    def one_revision_at_most_takes_requests_and_it_has_not_failed(self) -> None:
        revisions = self.world.rollout.revisions
        routed = [each for each in revisions if each.weight]
        assert len(routed) <= 1
        assert all(each.state in (State.STARTING, State.LIVE) for each in routed)
        assert sum(each.state is State.LIVE for each in revisions) <= 1

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        self.world.settle()
        revisions = self.world.rollout.revisions
        if self.world.rollout.deleting:
            assert self.world.rollout.gone
            return
        live, latest = self.world.rollout.live, self.world.rollout.latest
        assert [each for each in revisions if each.replicas] == ([live] if live else [])
        assert latest is live or latest.state is State.FAILED
        assert live is None or live.complete

    def _change(self, data: st.DataObject, change: object) -> None:
        if found := self.world.replicas():
            chosen = data.draw(st.sampled_from(found))
            self.world.change(chosen, change(chosen))  # type: ignore[operator]


TestRollouts = Rollouts.TestCase
TestRollouts.settings = settings(max_examples=60, stateful_step_count=40)


def test_a_chosen_revision_that_fails_before_it_is_live_leaves_nothing_running() -> None:
    world = World(2)
    first, second = world.replicas()
    world.change(first, ready(first))
    world.change(second, ready(second))
    world.apply_routes()
    first, second = world.replicas()
    world.change(first, replicas.follow(first, CANCELLED))
    for _ in range(3):
        failing = next(each for each in world.replicas() if each.job == second.job)
        world.change(failing, failed(failing))
    failing = next(each for each in world.replicas() if each.job == second.job)
    world.change(failing, replicas.follow(failing, CANCELLED))
    third = next(each for each in world.replicas() if each.job not in (first.job, second.job))
    world.change(third, replicas.follow(third, CANCELLED))
    world.settle()
    assert world.rollout.latest.state is State.FAILED
    assert world.replicas() == []
