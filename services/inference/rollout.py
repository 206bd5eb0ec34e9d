"""How a deployment gets from what answers to what should answer. Pure: from facts to the next step, again and again.

A rolling update goes: the new revision's replicas start → all have answered an inference → the routing table gives it
every request and keeps the old one warm → the gateway confirms that table, and the new one is live → the old one's
last requests end → it leaves the table → that table is confirmed too → its replicas stop. A revision whose replicas
keep failing never gets a request. Whatever stops half-way goes on from the records, since each step is decided from
them alone.

A revision whose policy has stages is on trial in between: at each stage it has a share of the requests, or copies of
them, until a decision (`gates`) takes it to the next stage or back.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from aios.names import DeploymentName, JobName
from services.inference import deployments, replicas, standing, trials
from services.inference.deployments import Deployment, Share
from services.inference.gates import Decision
from services.inference.replicas import FAILURES_MAX, Replica
from services.inference.revisions import Revision, State, move

WEIGHT = 100


@dataclass(frozen=True)
class TrafficChange:
    """One change of a deployment's shares."""

    deployment: DeploymentName
    shares: Mapping[int, Share]
    reason: str
    request_time: datetime
    effect_time: datetime | None
    """When Envoy had it; None for one that is not in force yet, or never was."""


@dataclass(frozen=True)
class Rollout:
    """A deployment, and those of its revisions that hold something or are the newest, by number."""

    deployment: Deployment
    revisions: tuple[Revision, ...]
    reason: str = ""
    """Why this step is taken, where somebody or something asked for it."""

    @property
    def deleting(self) -> bool:
        """Whether it is being taken down."""
        return self.deployment.state is deployments.State.DELETING

    @property
    def latest(self) -> Revision:
        """The newest revision."""
        return self.revisions[-1]

    @property
    def live(self) -> Revision | None:
        """The revision that answers."""
        return next((each for each in self.revisions if each.state is State.LIVE), None)

    @property
    def trial(self) -> Revision | None:
        """The revision whose gates are watched."""
        return self.latest if self.latest.state is State.TRIAL and self.latest.stages else None

    @property
    def shares(self) -> Mapping[int, Share]:
        """Who gets which share of the requests, by number of the revision."""
        routed = (each for each in self.revisions if each.weight or each.mirror)
        return {each.number: Share(each.weight or 0, each.mirror) for each in routed}

    @property
    def failed(self) -> bool:
        """Whether the newest revision could not start, or was rolled back."""
        return self.latest.state is State.FAILED

    @property
    def gone(self) -> bool:
        """Whether it is being taken down and nothing is left."""
        return self.deleting and all(
            each.weight is None and not each.replicas and each.state in (State.RETIRED, State.FAILED)
            for each in self.revisions
        )

    def replace(self, revision: Revision) -> "Rollout":
        """The same with one revision changed."""
        changed = tuple(revision if each.name == revision.name else each for each in self.revisions)
        return replace(self, revisions=changed)


@dataclass(frozen=True)
class Facts:
    """What a step depends on beside the records of the deployment itself."""

    now: datetime
    confirmed: int
    """The routing table that the gateway has in force."""
    next_table: int
    """The number that the routing table gets if this step changes it."""
    drained: frozenset[int] = frozenset()
    """Revisions that have been without requests for the drain period."""
    overdue: frozenset[JobName] = frozenset()
    """Replicas that have been loading for too long."""
    idle: frozenset[JobName] = frozenset()
    """Replicas that have been out of the table in force for the drain period."""
    decision: Decision | None = None
    """Of the trial, where one was made."""


def advance(rollout: Rollout, facts: Facts) -> Rollout:
    """The next step; the same rollout when there is nothing to do until a fact changes."""
    rules = (
        _give_up,
        _promote,
        trials.time_stage,
        trials.decide,
        trials.begin,
        _share_out,
        _set_aside,
        _withdraw,
        _stop_idle,
        _replace_replicas,
    )
    for rule in rules:
        rollout = rule(rollout, facts)
    return replace(standing.judge(rollout, facts.now), reason="")


def delete(deployment: Deployment, now: datetime) -> Deployment:
    """Begin to take a deployment down. Once begun, it stays so."""
    if deployment.state is deployments.State.DELETING:
        return deployment
    return replace(deployment, state=deployments.State.DELETING, message="", update_time=now)


def scale(rollout: Rollout, wanted: Mapping[int, int], reason: str = "") -> Rollout:
    """Have so many replicas of revisions, by number, from now on. Only one that is live may have none.

    Args:
        reason: Why, where one goes to sleep by no rule of its own.
    """
    for revision in rollout.revisions:
        if revision.number in wanted and not revision.leaving:
            least = 0 if revision.state is State.LIVE else 1
            count = max(least, wanted[revision.number])
            rollout = rollout.replace(replace(revision, wanted=count, message="" if count else reason))
    return rollout


def drains(revision: Revision, confirmed: int) -> bool:
    """Whether a revision gets no request any more, so that its drain period runs."""
    return revision.leaving and revision.weight == 0 and confirmed >= revision.routed_in


def _give_up(rollout: Rollout, facts: Facts) -> Rollout:
    """A revision that cannot start has failed, and says why."""
    for revision in rollout.revisions:
        if revision.state not in (State.STARTING, State.TRIAL):
            continue
        for each in revision.replicas:
            late = each.job in facts.overdue
            if each.failures >= FAILURES_MAX or late:
                reason = "still not ready, long after its process started" if late else each.message
                reason = reason or "its replicas do not start"
                back = trials.roll_back(rollout, reason, facts.now) if revision == rollout.trial else None
                rollout = back or rollout.replace(move(revision, State.FAILED, facts.now, reason))
                break
    return rollout


def _promote(rollout: Rollout, facts: Facts) -> Rollout:
    """A revision that the table in force gives all requests to is live, and the one before it drains."""
    for revision in rollout.revisions:
        routed = revision.weight == WEIGHT and facts.confirmed >= revision.routed_in
        if _takes_over(revision) and routed and revision.ready:
            former = rollout.live
            if former is not None:
                rollout = rollout.replace(move(former, State.DRAINING, facts.now))
            rollout = rollout.replace(move(revision, State.LIVE, facts.now))
    return rollout


def _takes_over(revision: Revision) -> bool:
    """Whether it is to get all requests once it can."""
    return revision.state is State.STARTING or (revision.state is State.TRIAL and not revision.stages)


def _share_out(rollout: Rollout, facts: Facts) -> Rollout:
    """Share out the requests, and keep who gets none in the table until it is withdrawn."""
    before, shares = rollout.shares, _shares(rollout)
    for revision in rollout.revisions:
        share = shares.get(revision.number, Share(0, 0))
        listed = revision.number in shares or revision.weight is not None
        weight = share.percent if listed else None
        if (weight, share.mirror_percent) != (revision.weight, revision.mirror):
            # One that none of its replicas answers for has no requests in the table as it is: there will be no next,
            # unless the deployment is deleted, and with it whatever table is not in force yet.
            answers = any(each.address for each in revision.replicas if not _over(each))
            silent = weight == 0 and not answers and not rollout.deleting
            table = revision.routed_in if silent else facts.next_table
            changed = replace(revision, weight=weight, mirror=share.mirror_percent, routed_in=table)
            rollout = rollout.replace(changed)
    if rollout.shares == before:
        return rollout
    reason = rollout.reason or _usual_reason(rollout)
    return replace(rollout, deployment=replace(rollout.deployment, reason=reason))


def _shares(rollout: Rollout) -> Mapping[int, Share]:
    chosen, trial = _to_serve(rollout), rollout.trial
    if chosen is None:
        return {}
    if trial is None or chosen is trial:
        return {chosen.number: Share(WEIGHT, 0)}
    stage = trial.stages[0]
    return {
        chosen.number: Share(WEIGHT - stage.percent, 0),
        trial.number: Share(stage.percent, stage.mirror_percent),
    }


def _usual_reason(rollout: Rollout) -> str:
    if rollout.deleting:
        return "the deployment is deleted"
    serving = max(rollout.shares.items(), key=lambda item: item[1].percent, default=None)
    if serving is None:
        return "no revision answers"
    if serving[0] == rollout.latest.number:
        return f"revision {serving[0]} answers with all of its replicas"
    return f"revision {rollout.latest.number} does not answer"


def _to_serve(rollout: Rollout) -> Revision | None:
    if rollout.deleting:
        return None
    latest, live = rollout.latest, rollout.live
    if latest.state is State.STARTING and latest.complete:
        return latest
    chosen = next(
        (
            each
            for each in rollout.revisions
            if (each.weight and each.state is State.STARTING)
            or (each.state is State.TRIAL and not each.stages)
        ),
        None,
    )
    # Chosen but not in force yet. Without a replica it must not get there while another revision answers.
    if chosen is not None and (chosen.ready or live is None):
        return chosen
    return live


def _set_aside(rollout: Rollout, facts: Facts) -> Rollout:
    """Nobody waits for a revision that a newer one came before, nor for any of a deployment that is deleted."""
    for revision in rollout.revisions:
        waits = (revision.state is State.STARTING and not revision.weight) or (
            revision.state is State.TRIAL and (revision.stages or not revision.weight)
        )
        if waits and revision.number != rollout.latest.number and not rollout.deleting:
            message = f"revision {rollout.latest.number} came before it was ready"
            rollout = rollout.replace(move(revision, State.DRAINING, facts.now, message))
        if rollout.deleting and revision.state in (State.STARTING, State.TRIAL, State.LIVE):
            rollout = rollout.replace(move(revision, State.DRAINING, facts.now, revision.message))
    return rollout


def _withdraw(rollout: Rollout, facts: Facts) -> Rollout:
    """Take a revision that is leaving out of the table once it is idle, and stop it once that table is in force."""
    for revision in rollout.revisions:
        if not revision.leaving:
            continue
        if revision.weight == 0 and revision.number in facts.drained:
            # The table of a deployment that is deleted has lost all of it already.
            table = revision.routed_in if rollout.deleting else facts.next_table
            revision = replace(revision, weight=None, routed_in=table)
        if revision.weight is None and facts.confirmed >= revision.routed_in:
            left = tuple(replicas.stop(each) for each in revision.replicas if not _over(each))
            revision = replace(revision, replicas=left)
            if not left and revision.state is State.DRAINING:
                revision = move(revision, State.RETIRED, facts.now, revision.message)
        rollout = rollout.replace(revision)
    return rollout


def _stop_idle(rollout: Rollout, facts: Facts) -> Rollout:
    """A replica that is no longer needed ends once it has been out of the table in force for a while."""
    for revision in rollout.revisions:
        left = tuple(
            replicas.stop(each)
            if each.state is replicas.State.LEAVING
            and facts.confirmed >= each.left_in
            and each.job in facts.idle
            else each
            for each in revision.replicas
        )
        if left != revision.replicas:
            rollout = rollout.replace(replace(revision, replicas=left))
    return rollout


def _replace_replicas(rollout: Rollout, facts: Facts) -> Rollout:
    """A revision that serves, or is about to, has as many replicas as it should."""
    for revision in rollout.revisions:
        if revision.state not in (State.STARTING, State.TRIAL, State.LIVE):
            continue
        kept = tuple(each for each in revision.replicas if not _over(each))
        serving = [each for each in kept if each.state not in replicas.DONE]
        missing = range(revision.replicas_made, revision.replicas_made + revision.wanted - len(serving))
        made = tuple(replicas.plan(revision.name, index) for index in missing)
        # Those that do not answer go first, then the newest.
        by_use = sorted(serving, key=lambda each: each in revision.ready, reverse=True)
        spare = {each.job for each in by_use[revision.wanted :]}
        kept = tuple(replicas.leave(each, facts.next_table) if each.job in spare else each for each in kept)
        # Until one answers, requests are held that would find nobody.
        asleep = not revision.wanted or (revision.asleep and not revision.ready)
        changed = replace(
            revision, replicas=kept + made, replicas_made=revision.replicas_made + len(made), asleep=asleep
        )
        if changed != revision:
            rollout = rollout.replace(changed)
    return rollout


def _over(replica: Replica) -> bool:
    return replica.state is replicas.State.ENDED
