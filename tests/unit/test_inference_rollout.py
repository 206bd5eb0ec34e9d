"""Rolling updates against a world that does what it likes: replicas fail, the gateway lags, specs change."""

from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aios.names import DeploymentName, JobName
from services.inference import deployments, policies, replicas, rollout, trials
from services.inference.deployments import Deployment, Spec
from services.inference.gates import Decision, Step
from services.inference.policies import Kind
from services.inference.policies import Rollout as Policy
from services.inference.replicas import FAILURES_MAX, Address, JobNews, Replica
from services.inference.revisions import Artifact, Revision, State
from services.inference.rollout import Facts, Rollout, advance
from services.inference.routes import DeploymentRoute, RevisionRoute, route

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NAME = DeploymentName("demo", "web")
CANARY = Policy(Kind.CANARY)
POLICIES = (Policy(), CANARY, Policy(Kind.BLUE_GREEN), Policy(Kind.SHADOW))
ADDRESS = Address("127.0.0.1", 8000, 8001)
CANCELLED = JobNews(True, False, False, True, False, 9, "cancelled")


class World:
    """One deployment, the routing tables it made, and the one that Envoy has."""

    def __init__(self, replicas_wanted: int = 1, policy: Policy = Policy()) -> None:  # noqa: B008
        self.now = self.confirmed = self.in_force = 0
        self.tables: dict[int, DeploymentRoute | None] = {}
        spec = Spec(
            "projects/demo/models/m/versions/1",
            replicas_wanted,
            rollout=policies.complete_rollout(policy),
        )
        self.rollout = Rollout(Deployment(NAME, spec, 0, NOW, NOW), ())
        self.update()

    def take(
        self,
        after: Rollout,
        drained: frozenset[int] = frozenset(),
        idle: frozenset[JobName] = frozenset(),
        decision: Decision | None = None,
    ) -> None:
        """Take a step and number the routing table that comes of it, as the store does."""
        number = max(self.tables, default=0)
        facts = Facts(NOW, self.confirmed, number + 1, drained, idle=idle, decision=decision)
        stepped = advance(after, facts)
        assert advance(stepped, facts) == stepped, "a step taken twice is one step"
        if not self.tables or route(stepped) != route(self.rollout):
            self.tables[number + 1] = route(stepped)
        self.rollout = stepped

    def update(self) -> None:
        number = self.rollout.deployment.latest + 1
        deployment = replace(self.rollout.deployment, latest=number)
        made = Revision(
            deployment.revision(number),
            deployment.spec,
            Artifact("", b""),
            NOW,
            wanted=deployment.spec.replicas,
        )
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
        left = self.replicas(replicas.State.LEAVING)
        unused = frozenset(each.job for each in left if each.left_in <= self.confirmed)
        self.take(self.rollout, frozenset(idle), unused)

    def scale(self, wanted: int) -> None:
        self.take(rollout.scale(self.rollout, {each.number: wanted for each in self.rollout.revisions}))

    def decide(self, step: Step, reason: str = "so it was decided") -> None:
        """About the stage that is in force, as the reconciler does."""
        trial = self.rollout.trial
        if trial is not None and trial.stage_time:
            self.take(self.rollout, decision=Decision(step, trial.number, trial.stage, reason))

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
        for _ in range(30):
            before = self.rollout, self.confirmed
            for step in (self.ready_all, self.apply_routes, self.confirm, self.drain, self.end_stopped):
                step()
            self.decide(Step.NEXT)
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


def test_a_deployment_deleted_when_it_just_fell_silent_drains_in_a_table_that_is_in_force() -> None:
    world = World()
    world.ready_all()
    world.apply_routes()
    world.confirm()
    [replica] = world.replicas()
    world.change(replica, failed(replica))
    world.delete()
    world.drain()
    assert world.rollout.revisions[0].weight == 0, "Envoy may still have the table from before"
    world.apply_routes()
    world.confirm()
    world.drain()
    assert world.rollout.revisions[0].weight is None


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


def on_trial(policy: Policy = CANARY) -> World:
    world = World(policy=policy)
    world.settle()
    world.update()
    world.ready_all()
    world.apply_routes()
    world.confirm()
    return world


def shares(world: World) -> dict[int, tuple[int, int]]:
    return {number: (share[0], share[1]) for number, share in world.rollout.shares.items()}


def test_a_canary_gets_its_share_and_more_at_each_step_until_it_is_live() -> None:
    world = on_trial()
    assert (world.revision(2).state, shares(world)) == (State.TRIAL, {1: (90, 0), 2: (10, 0)})
    assert world.rollout.deployment.state is deployments.State.UPDATING
    assert "revision 2 on trial gets 10% of the requests, step 1 of 2" in world.rollout.deployment.message
    world.decide(Step.WAIT)
    assert shares(world) == {1: (90, 0), 2: (10, 0)}
    world.decide(Step.NEXT, "30 s went well")
    assert shares(world) == {1: (50, 0), 2: (50, 0)}
    assert world.rollout.deployment.reason == "revision 2 goes on to 50%: 30 s went well"
    assert world.revision(2).stage_time is None, "the new shares are not in force yet"
    world.decide(Step.NEXT)
    assert shares(world) == {1: (50, 0), 2: (50, 0)}, "so nothing is known of them"
    world.apply_routes()
    world.confirm()
    world.decide(Step.NEXT)
    assert (shares(world), world.revision(2).state) == ({2: (100, 0)}, State.TRIAL)
    world.settle()
    assert (world.revision(2).state, world.revision(1).state) == (State.LIVE, State.RETIRED)


def test_a_trial_that_fails_gives_every_request_back_and_says_why() -> None:
    world = on_trial()
    world.decide(Step.BACK, "31% failed")
    assert shares(world) == {1: (100, 0)}
    assert world.revision(2).weight == 0, "its last requests end"
    deployment = world.rollout.deployment
    assert deployment.state is deployments.State.DEGRADED
    assert deployment.message == "revision 2 was rolled back: 31% failed; revision 1 answers"
    world.settle()
    assert (world.revision(1).state, world.revision(2).state) == (State.LIVE, State.FAILED)
    assert world.revision(2).replicas == ()


def test_a_shadow_answers_nobody_until_it_is_promoted() -> None:
    world = on_trial(Policy(Kind.SHADOW, mirror_percent=40))
    assert shares(world) == {1: (100, 0), 2: (0, 40)}
    promoted = trials.promote(world.rollout, "by alice")
    assert promoted is not None
    world.take(promoted)
    assert shares(world) == {2: (100, 0)}
    assert world.rollout.deployment.reason == "revision 2 is promoted: by alice"
    assert trials.promote(world.rollout, "by alice") is None


def test_a_green_revision_stands_ready_without_requests() -> None:
    world = on_trial(Policy(Kind.BLUE_GREEN))
    assert (shares(world), world.revision(2).weight) == ({1: (100, 0)}, 0)
    assert [each.revision.revision for each in routed(world)] == ["1", "2"], "Envoy keeps it warm"


def test_a_canary_whose_replicas_keep_failing_is_rolled_back() -> None:
    world = on_trial()
    for _ in range(FAILURES_MAX):
        (broken,) = world.revision(2).replicas
        world.change(broken, failed(broken, "out of memory"))
    assert world.rollout.deployment.message.startswith("revision 2 was rolled back: out of memory")


def test_a_newer_revision_ends_a_trial() -> None:
    world = on_trial()
    world.update()
    assert (world.revision(2).state, shares(world)) == (State.DRAINING, {1: (100, 0)})


def test_fewer_replicas_end_once_their_requests_have() -> None:
    world = live(replicas_wanted=3)
    world.scale(1)
    kept, *rest = world.revision(1).replicas
    assert kept.state is replicas.State.READY
    assert {each.state for each in rest} == {replicas.State.LEAVING}
    assert [each.job for each in routed(world)[0].endpoints] == [kept.job]
    world.drain()
    assert not world.replicas(replicas.State.STOPPING), "Envoy may still have them"
    world.apply_routes()
    world.confirm()
    world.drain()
    assert len(world.replicas(replicas.State.STOPPING)) == 2
    world.settle()
    world.scale(2)
    assert [each.job.job for each in world.replicas()] == ["web-r1-0", "web-r1-3"]


def test_at_zero_requests_are_held_until_a_replica_answers() -> None:
    world = live()
    world.scale(0)
    assert str(world.rollout.deployment.state) == "ASLEEP"
    (entry,) = routed(world)
    assert (entry.asleep, entry.weight, entry.endpoints) == (True, 100, ())
    world.settle()
    assert not world.replicas()
    world.scale(1)
    assert routed(world)[0].asleep, "until it answers"
    world.settle()
    assert (routed(world)[0].asleep, len(routed(world)[0].endpoints)) == (False, 1)
    assert world.rollout.deployment.state is deployments.State.READY


class Rollouts(RuleBasedStateMachine):
    """Every order of events that can happen."""

    @initialize(wanted=st.integers(1, 3), policy=st.sampled_from(POLICIES))
    def start(self, wanted: int, policy: Policy) -> None:
        self.world = World(wanted, policy)

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

    @rule(step=st.sampled_from(Step))
    def the_gates_decide(self, step: Step) -> None:
        self.world.decide(step)

    @rule(wanted=st.integers(0, 3))
    def somebody_scales(self, wanted: int) -> None:
        self.world.scale(wanted)

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
                routed = {endpoint.job for endpoint in each.endpoints}
                stopping = {one.job for one in revision.replicas if one.state is replicas.State.STOPPING}
                assert not routed & stopping

    @invariant()
    def who_takes_requests_has_not_failed_and_shares_add_up(self) -> None:
        revisions = self.world.rollout.revisions
        routed = [each for each in revisions if each.weight or each.mirror]
        assert sum(each.weight or 0 for each in revisions) in (0, 100)
        assert all(each.state in (State.STARTING, State.TRIAL, State.LIVE) for each in routed)
        assert sum(each.state is State.LIVE for each in revisions) <= 1
        assert sum(bool(each.mirror) for each in revisions) <= 1

    @invariant()
    def a_revision_that_is_live_keeps_its_requests_until_another_one_has_them(self) -> None:
        rollout = self.world.rollout
        if rollout.live and not rollout.deleting:
            assert sum(each.weight or 0 for each in rollout.revisions) == 100

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        self.world.scale(1)
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
