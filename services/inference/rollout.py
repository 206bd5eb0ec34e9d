"""How a deployment gets from what answers to what should answer. Pure: from facts to the next step, again and again.

A rolling update goes: the new revision's replicas start → all have answered an inference → the routing table gives it
every request and keeps the old one warm → the gateway confirms that table, and the new one is live → the old one's
last requests end → it leaves the table → that table is confirmed too → its replicas stop. A revision whose replicas
keep failing never gets a request. Whatever stops half-way goes on from the records, since each step is decided from
them alone.
"""

from dataclasses import dataclass, replace
from datetime import datetime

from aios.names import JobName
from services.inference import deployments, replicas
from services.inference.deployments import Deployment
from services.inference.replicas import FAILURES_MAX, Replica
from services.inference.revisions import Revision, State, move

WEIGHT = 100


@dataclass(frozen=True)
class Rollout:
    """A deployment, and those of its revisions that hold something or are the newest, by number."""

    deployment: Deployment
    revisions: tuple[Revision, ...]

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
    def failed(self) -> bool:
        """Whether the newest revision could not start."""
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


def advance(rollout: Rollout, facts: Facts) -> Rollout:
    """The next step; the same rollout when there is nothing to do until a fact changes."""
    for rule in (_give_up, _promote, _share_out, _set_aside, _withdraw, _replace_replicas):
        rollout = rule(rollout, facts)
    return _judge(rollout, facts.now)


def delete(deployment: Deployment, now: datetime) -> Deployment:
    """Begin to take a deployment down. Once begun, it stays so."""
    if deployment.state is deployments.State.DELETING:
        return deployment
    return replace(deployment, state=deployments.State.DELETING, message="", update_time=now)


def drains(revision: Revision, confirmed: int) -> bool:
    """Whether a revision gets no request any more, so that its drain period runs."""
    return revision.leaving and revision.weight == 0 and confirmed >= revision.routed_in


def _give_up(rollout: Rollout, facts: Facts) -> Rollout:
    """A revision that cannot start has failed, and says why."""
    for revision in rollout.revisions:
        if revision.state is not State.STARTING:
            continue
        for each in revision.replicas:
            late = each.job in facts.overdue
            if each.failures >= FAILURES_MAX or late:
                reason = "still not ready, long after its process started" if late else each.message
                failed = move(revision, State.FAILED, facts.now, reason or "its replicas do not start")
                rollout = rollout.replace(failed)
                break
    return rollout


def _promote(rollout: Rollout, facts: Facts) -> Rollout:
    """A revision that the table in force gives requests to is live, and the one before it drains."""
    for revision in rollout.revisions:
        routed = revision.weight and facts.confirmed >= revision.routed_in
        if revision.state is State.STARTING and routed and revision.ready:
            former = rollout.live
            if former is not None:
                rollout = rollout.replace(move(former, State.DRAINING, facts.now))
            rollout = rollout.replace(move(revision, State.LIVE, facts.now))
    return rollout


def _share_out(rollout: Rollout, facts: Facts) -> Rollout:
    """Give all requests to one revision, and keep the others in the table until they are withdrawn."""
    chosen = _to_serve(rollout)
    for revision in rollout.revisions:
        weight = WEIGHT if revision is chosen else (None if revision.weight is None else 0)
        if weight != revision.weight:
            # One that none of its replicas answers for has no requests in the table as it is: there will be no next.
            silent = weight == 0 and not any(each.address for each in revision.replicas if not _over(each))
            table = revision.routed_in if silent else facts.next_table
            rollout = rollout.replace(replace(revision, weight=weight, routed_in=table))
    return rollout


def _to_serve(rollout: Rollout) -> Revision | None:
    if rollout.deleting:
        return None
    latest, live = rollout.latest, rollout.live
    if latest.state is State.STARTING and latest.complete:
        return latest
    chosen = next((each for each in rollout.revisions if each.weight and each.state is State.STARTING), None)
    # Chosen but not in force yet. Without a replica it must not get there while another revision answers.
    if chosen is not None and (chosen.ready or live is None):
        return chosen
    return live


def _set_aside(rollout: Rollout, facts: Facts) -> Rollout:
    """Nobody waits for a revision that a newer one came before, nor for any of a deployment that is deleted."""
    for revision in rollout.revisions:
        superseded = (
            revision.state is State.STARTING and revision is not rollout.latest and not revision.weight
        )
        if superseded and not rollout.deleting:
            message = f"revision {rollout.latest.number} came before it was ready"
            rollout = rollout.replace(move(revision, State.DRAINING, facts.now, message))
        if rollout.deleting and revision.state in (State.STARTING, State.LIVE):
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


def _replace_replicas(rollout: Rollout, facts: Facts) -> Rollout:
    """A revision that serves, or is about to, has as many replicas as its spec says."""
    for revision in rollout.revisions:
        if revision.state not in (State.STARTING, State.LIVE):
            continue
        kept = tuple(each for each in revision.replicas if not _over(each))
        missing = range(revision.replicas_made, revision.replicas_made + revision.spec.replicas - len(kept))
        made = tuple(replicas.plan(revision.name, index) for index in missing)
        if made or kept != revision.replicas:
            rollout = rollout.replace(
                replace(revision, replicas=kept + made, replicas_made=revision.replicas_made + len(made))
            )
    return rollout


def _over(replica: Replica) -> bool:
    return replica.state is replicas.State.ENDED


def _judge(rollout: Rollout, now: datetime) -> Rollout:
    """Say where the deployment stands."""
    state, message = _standing(rollout)
    live = rollout.live.number if rollout.live else None
    before = rollout.deployment
    after = replace(before, state=state, message=message, live=live)
    return rollout if after == before else replace(rollout, deployment=replace(after, update_time=now))


def _standing(rollout: Rollout) -> tuple[deployments.State, str]:
    latest, live = rollout.latest, rollout.live
    if rollout.deleting:
        return deployments.State.DELETING, ""
    if latest.state is State.FAILED:
        rest = f"; revision {live.number} answers" if live is not None and live.ready else ""
        return deployments.State.DEGRADED, f"revision {latest.number} could not start: {latest.message}{rest}"
    if latest is not live:
        state = deployments.State.STARTING if live is None else deployments.State.UPDATING
        return state, _missing(latest)
    if not latest.ready:
        return deployments.State.DEGRADED, f"no replica answers: {_missing(latest)}"
    return deployments.State.READY, _missing(latest)


def _missing(revision: Revision) -> str:
    """How many replicas do not answer yet, and what one of them waits for; empty when all do."""
    if revision.complete:
        return ""
    waits = next((each for each in revision.replicas if each.message and each not in revision.ready), None)
    reason = f": {waits.job.job} {waits.message}" if waits else ""
    return f"{len(revision.ready)} of {revision.spec.replicas} replicas answer{reason}"
