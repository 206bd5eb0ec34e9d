"""Why a job is where it is, until when, and what would change that. Pure: worked out on a copy, never while planning."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np

from aios.names import JobName, QueueName
from aios.scheduling import is_device
from services.scheduler.attempts import Attempt, AttemptState
from services.scheduler.engine import model
from services.scheduler.engine.forecast import RESERVATIONS, Basis, Forecast, Known, forecast, starts_now
from services.scheduler.engine.order import known, remaining
from services.scheduler.engine.plan import Decide
from services.scheduler.engine.snapshot import Snapshot as EngineSnapshot
from services.scheduler.jobs import GIVES_WAY, PREEMPTED, Job, State
from services.scheduler.plan import Reason, Reasons, Snapshot, plan
from services.scheduler.policies import ALGORITHMS, compose
from services.scheduler.pool import Pool, asked
from services.scheduler.queues import figure, path
from services.scheduler.specs import Kind
from services.scheduler.usage import usages

HOLDERS_MAX = 8
REPLICAS_TRIED_MAX = 32
TRIES_MAX = 4
"""Of each kind of alternative."""
SOONER = 0.9
"""Of the predicted wait: what shortens it less is not worth telling."""


@dataclass(frozen=True)
class Holder:
    """Who holds what a job waits for; without a name those that the caller may not see, together."""

    job: JobName | None
    held: Mapping[str, float]
    jobs: int = 1
    end: datetime | None = None


@dataclass(frozen=True)
class Prediction:
    """When a job is expected to start."""

    start: datetime
    earliest: datetime
    latest: datetime | None
    basis: str


@dataclass(frozen=True)
class Alternative:
    """What would start it sooner."""

    code: str
    message: str
    start: datetime


@dataclass(frozen=True)
class Explanation:
    """All that can be said of a job's place."""

    job: Job
    reason: Reason
    holders: Sequence[Holder] = ()
    prediction: Prediction | None = None
    unpredicted: str = ""
    alternatives: Sequence[Alternative] = ()
    attempts: Sequence[Attempt] = field(default_factory=tuple)

    @property
    def preempted(self) -> Sequence[Attempt]:
        """Attempts that were stopped for others."""
        return [each for each in self.attempts if each.end_reason == PREEMPTED]

    @property
    def lost(self) -> int:
        """Attempts that went with their node."""
        return sum(each.state is AttemptState.LOST for each in self.attempts)


def explain(
    job: Job,
    snapshot: Snapshot,
    attempts: Sequence[Attempt],
    history: Sequence[float],
    now: datetime,
    *,
    may_see: Callable[[JobName], bool],
    enough: Callable[[], bool] = lambda: False,
) -> Explanation:
    """Explain a job.

    Args:
        snapshot: Of the whole pool.
        history: Seconds that earlier jobs ran.
        may_see: Whether the caller may know of a job.
        enough: Asked between drawn futures: whether to stop there.
    """
    if job.state is not State.QUEUED:
        return Explanation(job, Reason(job.reason, _been(job, attempts, now)), attempts=attempts)
    return _Waiting(job, snapshot, history, now, may_see).explain(attempts, enough)


class _Waiting:
    def __init__(
        self,
        job: Job,
        snapshot: Snapshot,
        history: Sequence[float],
        now: datetime,
        may_see: Callable[[JobName], bool],
    ) -> None:
        self._job = job
        self._name = str(job.name)
        self._snapshot = snapshot
        self._now = now
        self._may_see = may_see
        self._queues = {each.name: each for each in snapshot.queues}
        pool = Pool()
        self._decided = plan(snapshot, now, preempt=False, pool=pool)
        self._engine = pool.snapshot
        everybody = [*snapshot.queue, *snapshot.holding]
        self._known = Known(
            history,
            frozenset(str(each.name) for each in everybody if each.spec.kind is Kind.SERVICE),
            {
                str(each.name): each.retry_time.timestamp()
                for each in snapshot.queue
                if each.retry_time is not None
            },
        )

    def explain(self, attempts: Sequence[Attempt], enough: Callable[[], bool]) -> Explanation:
        reasons = self._decided.reasons
        assert isinstance(reasons, Reasons)
        if self._job.name not in reasons:
            reason = Reason("STARTS", "starts at the next step")
            return Explanation(self._job, reason, attempts=attempts)
        reason = reasons[self._job.name]
        found = self._forecast(self._engine, enough)
        told = found.start is not None and found.basis is not Basis.NOTHING
        node, lacking = reasons.lacks(self._job.name)
        return Explanation(
            self._job,
            reason,
            holders=self._holders(reason, node),
            prediction=self._prediction(found) if told else None,
            unpredicted="" if told else self._unpredicted(reason, found),
            alternatives=list(self._alternatives(reason, [each.code for each in lacking], node, found)),
            attempts=attempts,
        )

    # Who holds it.

    def _holders(self, reason: Reason, node: str) -> list[Holder]:
        """Named jobs by what they hold, most first, and the others together."""
        there = [each for each in self._snapshot.holding if each.attempt is not None]
        if reason.code == "WAITS_FOR_QUOTA":
            mine = set(path(_queue(self._job), self._queues))
            there = [each for each in there if mine & set(path(_queue(each), self._queues))]
        elif reason.code != "WAITS_FOR_GANG":  # which waits for several nodes
            there = [each for each in there if each.attempt and node in each.attempt.nodes]
        named = [each for each in there if self._may_see(each.name)]
        found = [Holder(each.name, _held(each), end=self._end(each)) for each in named]
        found.sort(key=lambda each: (-_devices(each.held), -each.held.get("cpu", 0), str(each.job)))
        rest = [_held(each) for each in there if not self._may_see(each.name)]
        rest += [each.held for each in found[HOLDERS_MAX:]]
        others = [Holder(None, _sum(rest), len(rest))] if rest else []
        return [*found[:HOLDERS_MAX], *others]

    def _end(self, job: Job) -> datetime | None:
        """When a job is expected to end, where something is known of that; what is told to stop does so now."""
        if job.state is State.STOPPING:
            return self._now
        slot = np.array([self._engine.slots[str(job.name)]])
        if str(job.name) in self._known.endless or not known(self._engine, slot)[0]:
            return None
        self._engine.touch(slot, self._now.timestamp())
        return _moment(self._now.timestamp() + float(remaining(self._engine, slot)[0]))

    # Until when.

    def _forecast(self, engine: EngineSnapshot, enough: Callable[[], bool]) -> Forecast:
        policy = self._snapshot.policy
        preempts = ALGORITHMS[policy.algorithm].preempts
        return forecast(
            self._without_what_stops(engine),
            lambda: compose(replace(policy, reservations=RESERVATIONS)),
            self._name,
            self._now.timestamp(),
            self._known,
            quantum=policy.preempt_interval.total_seconds() if preempts else 0.0,
            enough=enough,
        )

    def _without_what_stops(self, engine: EngineSnapshot) -> EngineSnapshot:
        """As it will be in a moment: what gives way waits again, what was cancelled is gone."""
        stops = [each for each in self._snapshot.holding if each.state is State.STOPPING]
        if stops:
            engine = engine.copy()
        for each in stops:
            if str(each.name) not in engine.slots:
                continue
            if each.reason in GIVES_WAY:
                engine.wait(str(each.name), self._now.timestamp())
            else:
                engine.remove(str(each.name), self._now.timestamp())
        return engine

    def _prediction(self, found: Forecast) -> Prediction:
        assert found.start is not None
        assert found.earliest is not None
        return Prediction(
            _moment(found.start),
            _moment(found.earliest),
            _moment(found.latest) if found.latest is not None else None,
            found.basis.name,
        )

    def _unpredicted(self, reason: Reason, found: Forecast) -> str:
        """Why nobody can tell when it starts."""
        if reason.code == "WAITS_FOR_NODE":
            return "Nobody can tell when a node joins that holds it."
        if found.start is not None:
            seen = [name for name in map(JobName.parse, found.ends) if self._may_see(name)]
            whose = ", ".join(str(name) for name in seen[:3]) or "others"
            return (
                f"It waits for the end of {whose}; nothing is known of how long that takes, neither steps nor an expected"
                " duration nor enough earlier jobs."
            )
        if self._known.endless:
            return "Services hold what it waits for: they end when somebody stops them, not by themselves."
        return "It starts after more than can be looked ahead."

    # What would start it sooner.

    def _alternatives(
        self, reason: Reason, lacking: Sequence[str], node: str, found: Forecast
    ) -> Iterator[Alternative]:
        if reason.code == "WAITS_FOR_NODE":
            yield from self._with_other_types()
            yield from self._with_other_nodes()
            return
        if reason.code == "WAITS_FOR_QUOTA":
            yield from self._with_a_higher_limit()
        yield from self._with_fewer_replicas()
        yield from self._with_less(lacking)
        yield from self._with_other_types()
        yield from self._with_other_nodes()
        yield from self._without_a_job("" if reason.code == "WAITS_FOR_GANG" else node)
        yield from self._with_what_was_borrowed(found)

    def _with_fewer_replicas(self) -> Iterator[Alternative]:
        """The largest gang that starts now."""
        mine = asked(self._job)
        for fewer in range(mine.replicas - 1, max(0, mine.replicas - 1 - REPLICAS_TRIED_MAX), -1):
            if self._starts(replace(mine, replicas=fewer, least=min(mine.least, fewer))):
                what = "1 replica" if fewer == 1 else f"{fewer} replicas"
                yield self._at_once("FEWER_REPLICAS", f"starts now with {what} instead of {mine.replicas}")
                return

    def _with_less(self, lacking: Sequence[str]) -> Iterator[Alternative]:
        """As much as starts now, of each resource that is missing."""
        mine = asked(self._job)
        for name, amount in mine.replica.items():
            other = "ACCELERATOR" if is_device(name) else "BUDGET"
            code = {"cpu": "CPU", "memory": "MEMORY"}.get(name, other)
            if lacking and code not in lacking:
                continue
            for less in _less(name, amount):
                if self._starts(replace(mine, replica={**mine.replica, name: less})):
                    message = f"starts now with {figure(name, less)} instead of {_bare(name, amount)}"
                    yield self._at_once("FEWER_RESOURCES", message)
                    break

    def _with_other_types(self) -> Iterator[Alternative]:
        mine, tried = asked(self._job), 0
        for name, amount in mine.replica.items():
            family, slash, _ = name.partition("/")
            for kind in self._engine.kinds if slash else ():
                if kind != name and kind.startswith(f"{family}/") and tried < TRIES_MAX:
                    tried += 1
                    others = {each: n for each, n in mine.replica.items() if each != name}
                    if self._starts(replace(mine, replica=others | {kind: amount})):
                        yield self._at_once("OTHER_TYPE", f"starts now on {figure(kind, amount)}")

    def _with_other_nodes(self) -> Iterator[Alternative]:
        """Nodes that its labels or their taints keep it from."""
        mine = asked(self._job)
        if mine.selector and self._starts(replace(mine, selector={})):
            labels = " ".join(f"{name}={value}" for name, value in sorted(mine.selector.items()))
            yield self._at_once("OTHER_NODES", f"starts now without the node_selector {labels}")
        taints = {each for node in self._engine.nodes if node for each in node.taints.items()}
        for name, value in sorted(taints)[:TRIES_MAX]:
            if self._starts(replace(mine, tolerates={**mine.tolerates, name: value})):
                yield self._at_once("OTHER_NODES", f"starts now if it tolerates {name}={value}")

    def _without_a_job(self, node: str) -> Iterator[Alternative]:
        """Jobs on a node, or anywhere, whose end alone would start it; those that the caller may see."""
        there = [
            each
            for each in self._snapshot.holding
            if each.attempt and node in ("", *each.attempt.nodes) and self._may_see(each.name)
        ]
        there.sort(key=lambda each: -_devices(_held(each)))
        for each in there[:TRIES_MAX]:
            engine = self._engine.copy()
            engine.remove(str(each.name), self._now.timestamp())
            if self._starts_on(engine):
                yield self._at_once("JOB_ENDS", f"starts now if {each.name} ends")

    def _with_what_was_borrowed(self, found: Forecast) -> Iterator[Alternative]:
        """Queues that use more than is theirs: what if the newest of their jobs gave that back."""
        mine = set(path(_queue(self._job), self._queues))
        by_share = sorted(
            usages(self._engine, self._now.timestamp()).items(), key=lambda each: -each[1].share
        )
        for name, usage in [each for each in by_share if each[1].borrowed and each[0] not in mine][
            :TRIES_MAX
        ]:
            engine = self._engine.copy()
            for each in sorted(self._snapshot.holding, key=lambda each: -each.number):
                if name in path(_queue(each), self._queues) and each.spec.kind is Kind.BATCH:
                    engine.remove(str(each.name), self._now.timestamp())
                    if not usages(engine, self._now.timestamp())[name].borrowed:
                        break
            amounts = " and ".join(figure(kind, amount) for kind, amount in usage.borrowed.items())
            yield from self._sooner(
                engine, found, "QUEUE_RETURNS", f"if {QueueName(name)} returns the {amounts} that it borrows"
            )

    def _with_a_higher_limit(self) -> Iterator[Alternative]:
        for name in path(_queue(self._job), self._queues):
            queue = self._engine.queues.get(name)
            if queue is not None and queue.limit:
                engine = self._engine.copy()
                engine.put_queue(replace(queue, limit={}))
                if self._starts_on(engine):
                    yield self._at_once(
                        "HIGHER_LIMIT", f"starts now if the limit of {QueueName(name)} is raised"
                    )

    def _sooner(
        self, engine: EngineSnapshot, found: Forecast, code: str, condition: str
    ) -> Iterator[Alternative]:
        now = self._now.timestamp()
        if self._starts_on(engine):
            yield self._at_once(code, f"starts now {condition}")
            return
        then = self._forecast(engine, lambda: True)
        if then.start is None or then.basis is Basis.NOTHING:
            return
        if found.start is None or then.start - now < SOONER * (found.start - now):
            at = _moment(then.start)
            yield Alternative(code, f"starts about {at:%H:%M} UTC {condition}", at)

    def _at_once(self, code: str, message: str) -> Alternative:
        return Alternative(code, message, self._now)

    def _starts(self, changed: model.Job) -> bool:
        """Whether it would start now if it had asked so."""
        engine = self._engine.copy()
        slot = engine.slots[self._name]
        waited, since, ran = (float(column[slot]) for column in (engine.waited, engine.since, engine.ran))
        engine.remove(self._name)
        engine.add(changed, waited=waited, since=since, ran=ran)
        return self._starts_on(engine)

    def _starts_on(self, engine: EngineSnapshot) -> bool:
        decide: Decide = compose(self._snapshot.policy)
        return starts_now(engine, decide, self._name, self._now.timestamp())


def _been(job: Job, attempts: Sequence[Attempt], now: datetime) -> str:
    """Where a job is that does not wait, and what it has been through."""
    parts = [job.message]
    attempt = job.attempt
    if job.state is State.RUNNING and attempt is not None and attempt.start_time is not None:
        parts[0] += f" since {attempt.start_time:%H:%M:%S} UTC, attempt {attempt.epoch}"
    stopped = [each for each in attempts if each.end_reason == PREEMPTED]
    if stopped:
        last = max(each.end_time for each in stopped if each.end_time)
        parts.append(f"was stopped for others {_times(len(stopped))}, last {last:%H:%M:%S} UTC")
    lost = [each for each in attempts if each.state is AttemptState.LOST]
    if lost:
        parts.append(f"lost its node {_times(len(lost))}, last {lost[-1].node}")
    if job.failures:
        parts.append(f"failed {_times(job.failures)}; {job.spec.max_restarts} restarts are allowed")
    return "; ".join(parts)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _queue(job: Job) -> str:
    return job.spec.queue or job.name.project


def _held(job: Job) -> Mapping[str, float]:
    return job.attempt.total.named() if job.attempt else {}


def _devices(held: Mapping[str, float]) -> float:
    return sum(amount for name, amount in held.items() if is_device(name))


def _sum(amounts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(each.get(name, 0) for each in amounts) for each in amounts for name in each}


def _less(name: str, amount: float) -> Iterator[float]:
    """Smaller amounts to try, the largest first."""
    if is_device(name) and 1 <= amount <= 16:
        yield from range(int(amount) - 1, 0, -1)
        return
    for part in (2, 4, 8, 16):
        if less := round(amount / part, 3) if is_device(name) and amount < 1 else amount // part:
            yield less


def _bare(name: str, amount: float) -> str:
    """An amount whose resource was just named."""
    if name == "cpu":
        return f"{amount / 1000:g}"
    return f"{amount / 2**30:.1f} GiB" if name == "memory" else f"{amount:g}"


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
