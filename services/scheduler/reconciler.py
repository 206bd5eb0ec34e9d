"""Makes what runs follow what is decided: gives up silent nodes, plans, opens attempts, tells agents.

It follows the records and keeps nothing that a restart would lose: a step may be repeated at any time, and one after a
crash goes on where the last one stopped.
"""

import asyncio
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta

from aios.errors import Aborted, StaleEpoch
from aios.names import JobName
from aios.records import Database, Tx
from aios.runtime import telemetry
from aios.runtime.clock import Clock
from aios.scheduler.v1 import agent_service_pb2
from services.scheduler import jobs, mapping, queue_store, store
from services.scheduler.jobs import Attempt, AttemptState, Job, State
from services.scheduler.mirror import Mirror
from services.scheduler.nodes import Leases, Node, NodeState
from services.scheduler.plan import Plan, Reason, Snapshot, plan
from services.scheduler.policies import Policy
from services.scheduler.pool import Pool
from services.scheduler.progress import SAVE_SECONDS, Progress, Reports
from services.scheduler.sessions import Session, Sessions
from services.scheduler.signing import Signer
from services.scheduler.usage import Usage, usages

STEP_SECONDS = 1.0  # without an event: pauses that are over, leases that ran out

_log = logging.getLogger(__name__)
Held = tuple[str, int]
"""A job's name and an epoch."""


class Reconciler:
    """The one loop that starts and gives up attempts.

    Args:
        lease_seconds: How long a silent node keeps its jobs, by its own count.
        pool: What plans are made from; an empty one.
    """

    def __init__(
        self,
        db: Database,
        sessions: Sessions,
        signer: Signer,
        lease_seconds: float,
        clock: Clock,
        pool: Pool,
    ) -> None:
        self.waits: Mapping[JobName, Reason] = {}
        """Why each queued job waits, as of the last step. Never stored: it follows from what is."""
        self._db = db
        self._sessions = sessions
        self._signer = signer
        self._leases = Leases(lease_seconds)
        self._heard_at: dict[str, datetime] = {}
        self._step_seconds = min(STEP_SECONDS, lease_seconds / 4)
        self._clock = clock
        self._mirror = Mirror(db)
        self._pool = pool
        self._half_life = timedelta()
        self._reports = Reports()
        self._reports_saved_at = -math.inf
        self._preempted_at = -math.inf
        self._wake = asyncio.Event()
        self._membership = asyncio.Lock()
        """Held while a node is taken in or given up: neither may be decided on what the other is about to change."""

    def wake(self) -> None:
        """Something changed: take a step now."""
        self._wake.set()

    def heard(self, node: str) -> None:
        """A node's heartbeat arrived."""
        self._leases.heard(node, self._clock.monotonic())
        self._heard_at[node] = self._clock.now()

    def heartbeat_time(self, node: str) -> datetime | None:
        """When a node was last heard, for people; None when not since this process started."""
        return self._heard_at.get(node)

    async def run(self) -> None:
        """Take steps until cancelled."""
        while True:
            self._wake.clear()
            await self.step()
            try:
                async with asyncio.timeout(self._step_seconds):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def step(self) -> None:
        """Give up, plan, apply, tell."""
        # Before the reading: what is then read includes everything that these agents said when they registered, so
        # no attempt whose end is already stored is sent again.
        connected = self._sessions.current()
        snapshot = await self.snapshot()
        if await self._give_up(snapshot):
            snapshot = await self.snapshot()
        await self._save_progress(snapshot)
        await self._remember(snapshot.policy.usage_half_life)
        interval = snapshot.policy.preempt_interval.total_seconds()
        may_preempt = self._clock.monotonic() - self._preempted_at >= interval
        now = self._clock.now()
        decided = plan(snapshot, now, preempt=may_preempt, pool=self._pool)
        if decided.stops:
            self._preempted_at = self._clock.monotonic()
        overdue = [job for job in snapshot.holding if jobs.overdue(job, now)]
        if decided.starts or decided.stops or overdue:
            await self._db.write(lambda tx: self._apply(tx, snapshot, decided, overdue))
        self.waits = decided.reasons
        if connected:
            self._tell(connected, (await self._mirror.look()).holding)

    async def register(self, node: Node, said: Sequence[Attempt]) -> list[Held]:
        """Take in a node that states what it still holds. Its silence about an attempt it was running loses it.

        Returns:
            Attempts that it must stop.
        """

        def write(tx: Tx) -> list[Held]:
            now = self._clock.now()
            store.put_node(tx, node)
            stale = [
                (str(each.job), each.epoch) for each in said if not _report(tx, each, now) and _lives(each)
            ]
            named = {(each.job, each.epoch) for each in said}
            for job in store.holding(tx, node.name):
                assert job.attempt is not None
                forgotten = job.attempt.state is AttemptState.RUNNING and (job.name, job.epoch) not in named
                if forgotten:
                    message = f"node {node.name} came back without attempt {job.epoch}"
                    store.save(tx, job, jobs.lose(job, now, "ATTEMPT_FORGOTTEN", message))
            return stale

        async with self._membership:
            stops = await self._db.write(write)
            self.heard(node.name)
        self.wake()
        return stops

    async def report(self, said: Attempt) -> bool:
        """Store what a node says about an attempt. False when the attempt no longer counts."""
        counts = await self._db.write(lambda tx: _report(tx, said, self._clock.now()))
        self.wake()
        return counts

    async def progressed(self, name: JobName, said: Progress) -> None:
        """Take over what the process of an attempt says of its progress.

        Raises:
            StaleEpoch: it is not the process of the present attempt.
        """
        job = self.current(await self._db.read(lambda tx: store.get(tx, name)))
        self._reports.put(name, jobs.progressed(job, said, self._clock.now()))

    def current(self, job: Job) -> Job:
        """A job with the newest that it has said of its progress, which may not be stored yet."""
        newest = self._reports.newest(job.name, job.progress)
        return job if newest == job.progress else replace(job, progress=newest)

    async def preview(self, policy: Policy) -> Plan:
        """What the next step would do under another policy."""
        return plan(replace(await self.snapshot(), policy=policy), self._clock.now(), preempt=True)

    async def snapshot(self) -> Snapshot:
        """What a decision would rest on now."""
        found = await self._mirror.look()
        return replace(found, queue=self._currently(found.queue), holding=self._currently(found.holding))

    def usages(self) -> Mapping[str, Usage]:
        """What each queue has, as of the last step."""
        return usages(self._pool.snapshot, self._clock.now().timestamp())

    async def leave(self, node: str) -> None:
        """A node is shutting down: nothing more starts on it."""
        await self._db.write(lambda tx: _set_state(tx, node, NodeState.STOPPED))

    def _currently(self, found: Sequence[Job]) -> Sequence[Job]:
        return [self.current(job) for job in found]

    async def _remember(self, half_life: timedelta) -> None:
        """Count what queues used lately, with what the records know of the past, where the policy asks for it."""
        if half_life != self._half_life:
            now = self._clock.now()
            past = await self._db.read(lambda tx: queue_store.past(tx, half_life, now))
            self._pool.snapshot.remember(half_life.total_seconds(), past, now.timestamp())
            self._half_life = half_life

    async def _save_progress(self, snapshot: Snapshot) -> None:
        """Now and then, all at once; and forget what jobs said that have ended."""
        if self._clock.monotonic() - self._reports_saved_at < SAVE_SECONDS:
            return
        if unsaved := self._reports.unsaved:
            await self._db.write(lambda tx: store.save_progress(tx, unsaved))
            self._reports.saved(unsaved)
            self._reports_saved_at = self._clock.monotonic()
        self._reports.keep({job.name for job in (*snapshot.queue, *snapshot.holding)})

    async def _give_up(self, seen: Snapshot) -> bool:
        """Lose the nodes whose lease ran out, and what they held. True when there were any."""
        held = {job.attempt.node for job in seen.holding if job.attempt is not None}
        watched = [n.name for n in seen.nodes if n.state is NodeState.READY or n.name in held]
        if not self._leases.expired(watched, self._clock.monotonic()):
            return False
        async with self._membership:
            silent = self._leases.expired(watched, self._clock.monotonic())
            for name in silent:
                # First, so that no heartbeat is answered any more: an answer would let the node keep what is lost.
                self._sessions.close(name, "The node's lease has run out.")
                self._leases.forget(name)
                lost = await self._db.write(lambda tx, name=name: self._lose_node(tx, name))  # type: ignore[misc]
                _log.warning("node %s fell silent with %d attempts: %s", name, len(lost), ", ".join(lost))
        return bool(silent)

    def _lose_node(self, tx: Tx, name: str) -> list[str]:
        now = self._clock.now()
        node = store.get_node(tx, name)
        if node.state is NodeState.READY:
            store.put_node(tx, replace(node, state=NodeState.LOST))
        lost = store.holding(tx, name)
        for job in lost:
            store.save(tx, job, jobs.lose(job, now))
        return [str(job.name) for job in lost]

    def _apply(self, tx: Tx, snapshot: Snapshot, decided: Plan, overdue: Sequence[Job]) -> None:
        """Open the attempts that are still as they were planned; the next step plans the others again."""
        now = self._clock.now()
        for job in overdue:
            with suppress(Aborted):
                store.save(tx, job, jobs.overrun(job, now))
        holding = {job.name: job for job in snapshot.holding}
        for name in decided.stops:
            with suppress(Aborted):
                store.save(tx, holding[name], jobs.preempt(holding[name], now))
        planned = {job.name: job for job in snapshot.queue}
        known = {node.name: node for node in snapshot.nodes}
        wanted = {start.node for start in decided.starts}
        same = {name for name in wanted if store.find_node(tx, name) == known[name]}
        for start in decided.starts:
            job = planned[start.job]
            if start.node not in same:
                continue
            attributes = {
                "aios.project": job.name.project,
                "aios.job": str(job.name),
                "aios.owner": job.spec.owner,
                "aios.node": start.node,
            }
            with telemetry.span("assign", traceparent=job.traceparent, attributes=attributes):
                try:
                    store.save(tx, job, jobs.assign(job, start.node, start.granted, now))
                except Aborted:
                    continue
            telemetry.record_span(
                "queue wait",
                traceparent=job.traceparent,
                start=job.queued_time,
                end=now,
                attributes=attributes,
            )

    def _tell(self, connected: Mapping[str, Session], holding: Sequence[Job]) -> None:
        """Send each agent what it has not been sent on its present stream."""
        for job in holding:
            assert job.attempt is not None
            session = connected.get(job.attempt.node)
            what = "stop" if job.state is State.STOPPING else "assignment"
            if session is None or (what == "assignment" and job.attempt.state is not AttemptState.ASSIGNED):
                continue
            key = (what, str(job.name), job.epoch)
            if key in session.said:
                continue
            session.said.add(key)
            session.send(_stop(job) if what == "stop" else self._assignment(job))

    def _assignment(self, job: Job) -> agent_service_pb2.ConnectResponse:
        return agent_service_pb2.ConnectResponse(assignment=self._signer.sign(mapping.assignment_spec(job)))


def _report(tx: Tx, said: Attempt, now: datetime) -> bool:
    job = store.find(tx, said.job)
    if job is None:
        return False
    try:
        store.save(tx, job, jobs.report(job, said, now))
    except StaleEpoch as error:
        _log.info("%s", error.message)
        return False
    return True


def _set_state(tx: Tx, name: str, state: NodeState) -> None:
    store.put_node(tx, replace(store.get_node(tx, name), state=state))


def _lives(said: Attempt) -> bool:
    return said.state in jobs.LIVE


def _stop(job: Job) -> agent_service_pb2.ConnectResponse:
    grace = mapping.duration(job.spec.stop_grace)
    return agent_service_pb2.ConnectResponse(
        stop=agent_service_pb2.Stop(job=str(job.name), epoch=job.epoch, grace=grace)
    )
