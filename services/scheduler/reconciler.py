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

from aios.names import JobName
from aios.records import Database, Tx
from aios.runtime import telemetry
from aios.runtime.clock import Clock
from aios.scheduler.v1 import agent_service_pb2
from services.scheduler import attempts, jobs, mapping, queue_store, store
from services.scheduler.attempts import LIVE, Attempt, AttemptState, Replica
from services.scheduler.inbox import Inbox, take
from services.scheduler.jobs import HOLDS_RESOURCES, Job, State
from services.scheduler.mirror import Mirror, Surroundings
from services.scheduler.nodes import Leases, Node, NodeState
from services.scheduler.plan import Plan, Reason, Snapshot, plan
from services.scheduler.policies import Policy
from services.scheduler.pool import Pool
from services.scheduler.progress import SAVE_SECONDS, Progress, Reports
from services.scheduler.sessions import Session, Sessions
from services.scheduler.signing import Signer
from services.scheduler.usage import Usage, usages

STEP_SECONDS = 1.0  # without an event: pauses that are over, leases that ran out
REST_SECONDS_MAX = 0.1
"""After a step: what a job may wait longer for its start, so that a busy pool is planned in larger pieces."""

_log = logging.getLogger(__name__)
Held = tuple[str, int, int]
"""A job's name, an epoch and a rank."""


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
        self._mirror = Mirror(db, self.current)
        self._pool = pool
        self._planning = asyncio.Lock()
        """Held while the pool is worked on, in a thread beside the loop."""
        self._planned_seconds = 0.0
        """That the last plan took."""
        self._afresh = True
        """Compare all with the records and tell every agent all, whatever was taken over before."""
        self._half_life = timedelta()
        self._inbox = Inbox(db, self._mirror, clock)
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
            # What happens meanwhile is decided together: at most half of the time goes into plans.
            await asyncio.sleep(min(self._planned_seconds, REST_SECONDS_MAX))
            with suppress(TimeoutError):
                async with asyncio.timeout(self._step_seconds):
                    await self._wake.wait()

    async def step(self) -> None:
        """Give up, plan, apply, tell."""
        # Before the reading: what is then read includes everything that these agents said when they registered, so
        # no attempt whose end is already stored is sent again.
        connected = self._sessions.current()
        snapshot = await self.snapshot()
        if await self._give_up(snapshot):
            snapshot = await self.snapshot()
        await self._save_progress()
        taken = self._mirror.take()
        afresh, self._afresh = self._afresh, True
        changes = None if afresh else taken
        may_preempt = self._may_preempt(snapshot.policy)
        async with self._planning:
            await self._remember(snapshot.policy.usage_half_life)
            now, began = self._clock.now(), self._clock.monotonic()
            decided = await asyncio.to_thread(
                plan, snapshot, now, preempt=may_preempt, pool=self._pool, changes=changes
            )
            self._planned_seconds = self._clock.monotonic() - began
        if decided.stops:
            self._preempted_at = self._clock.monotonic()
        ordered = {
            job.name: (job, jobs.overrun(job, now)) for job in snapshot.holding if jobs.overdue(job, now)
        }
        ordered |= _drained(snapshot, now)
        stored: list[Job] = []
        if decided.starts or decided.stops or ordered:
            stored = await self._db.write(lambda tx: self._apply(tx, snapshot, decided, ordered))
            self._mirror.told(stored)
        self.waits = decided.reasons
        for session in connected.values():
            if afresh or not session.knows:
                self._tell({session.node: session}, snapshot.holding)
                session.knows = True
        self._tell(connected, [*taken.jobs, *stored])
        self._afresh = False

    async def register(self, node: Node, said: Sequence[Attempt]) -> list[Held]:
        """Take in a node that states what it still holds. Its silence about an attempt it was running loses it.

        Returns:
            Attempts that it must stop.
        """

        def write(tx: Tx) -> list[Held]:
            now = self._clock.now()
            store.put_node(tx, node)
            stale = [
                (str(each.job), each.epoch, each.rank)
                for each, counts in zip(said, take(tx, said, {}, now)[0], strict=True)
                if not counts and _lives(each)
            ]
            named = {(each.job, each.epoch, each.rank) for each in said}
            for job in store.holding(tx, node.name):
                assert job.attempt is not None
                ran = {(job.name, job.epoch, rank) for rank in job.attempt.running_on(node.name)}
                if ran - named:
                    message = f"node {node.name} came back without attempt {job.epoch}"
                    store.save(tx, job, jobs.lose(job, now, node.name, "ATTEMPT_FORGOTTEN", message))
            return stale

        async with self._membership:
            stops = await self._db.write(write)
            self.heard(node.name)
        self.wake()
        return stops

    async def report(self, said: Sequence[Attempt]) -> list[bool]:
        """Store what a node says about attempts. False for each that no longer counts."""
        counts = await self._inbox.put(said)
        self.wake()
        return counts

    async def progressed(self, name: JobName, said: Progress) -> None:
        """Take over what the process of an attempt says of its progress.

        Raises:
            StaleEpoch: it is not the process of the present attempt.
        """
        job = self.current(await self._db.read(lambda tx: store.get(tx, name)))
        self._reports.put(name, jobs.progressed(job, said, self._clock.now()))
        self._mirror.says(name)

    def current(self, job: Job) -> Job:
        """A job with the newest that it has said of its progress, which may not be stored yet."""
        newest = self._reports.newest(job.name, job.progress)
        return job if newest == job.progress else replace(job, progress=newest)

    def stored(self, job: Job) -> None:
        """A job was stored beside the steps: the next one need not read it."""
        self._mirror.told([job])
        self.wake()

    def surroundings(self, tx: Tx) -> Surroundings:
        """Nodes, policy and queues as a transaction sees them."""
        return self._mirror.surroundings(tx)

    async def preview(self, policy: Policy) -> Plan:
        """What the next step would do under another policy."""
        snapshot, now = replace(await self.snapshot(), policy=policy), self._clock.now()
        return await asyncio.to_thread(plan, snapshot, now, preempt=True)

    async def snapshot(self) -> Snapshot:
        """What a decision would rest on now."""
        return await self._mirror.look()

    async def usages(self) -> Mapping[str, Usage]:
        """What each queue has, as of the last step."""
        async with self._planning:
            return await asyncio.to_thread(usages, self._pool.snapshot, self._clock.now().timestamp())

    async def leave(self, node: str) -> None:
        """A node is shutting down: nothing more starts on it."""
        await self._db.write(lambda tx: _set_state(tx, node, NodeState.STOPPED))

    def _may_preempt(self, policy: Policy) -> bool:
        passed = self._clock.monotonic() - self._preempted_at
        return passed >= policy.preempt_interval.total_seconds()

    async def _remember(self, half_life: timedelta) -> None:
        """Count what queues used lately, with what the records know of the past, where the policy asks for it."""
        if half_life != self._half_life:
            now = self._clock.now()
            past = await self._db.read(lambda tx: queue_store.past(tx, half_life, now))
            self._pool.snapshot.remember(half_life.total_seconds(), past, now.timestamp())
            self._half_life = half_life

    async def _save_progress(self) -> None:
        """Now and then, all at once; and forget what jobs said that have ended."""
        if self._clock.monotonic() - self._reports_saved_at < SAVE_SECONDS:
            return
        if unsaved := self._reports.unsaved:
            await self._db.write(lambda tx: store.save_progress(tx, unsaved))
            self._reports.saved(unsaved)
            self._reports_saved_at = self._clock.monotonic()
        self._reports.keep(lambda name: self._mirror.get(name) is not None)

    async def _give_up(self, seen: Snapshot) -> bool:
        """Lose the nodes whose lease ran out, and what they held. True when there were any."""
        held = {node for job in seen.holding if job.attempt for node in job.attempt.live_nodes}
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
            store.save(tx, job, jobs.lose(job, now, name))
        return [str(job.name) for job in lost]

    def _apply(
        self, tx: Tx, snapshot: Snapshot, decided: Plan, ordered: Mapping[JobName, tuple[Job, Job]]
    ) -> list[Job]:
        """Open the attempts that are still as they were planned; the next step plans the others again.

        Args:
            ordered: What becomes of jobs whatever was planned, each from what it was.

        Returns:
            What was stored.
        """
        now = self._clock.now()
        after = dict(ordered)
        holding = {job.name: job for job in snapshot.holding} if decided.stops else {}
        for name in decided.stops:
            if name not in after:
                resized = decided.resizes.get(name, 0)
                after[name] = holding[name], jobs.preempt(holding[name], now, resized)
        wanted = {start.job for start in decided.starts}
        planned = {job.name: job for job in snapshot.queue if job.name in wanted} if wanted else {}
        known, now_there = (
            {node.name: node for node in nodes} for nodes in (snapshot.nodes, self.surroundings(tx).nodes)
        )
        for start in decided.starts:
            if all(known[node] == now_there[node] for node in start.nodes):
                job = planned[start.job]
                after[job.name] = job, jobs.assign(job, start.nodes, start.granted, now)
        found = store.save_all(
            tx, [(before, (become,)) for before, become in after.values() if become != before]
        )
        stored = [job for job in found if job is not None]
        for job in stored:
            if job.state is State.STARTING:
                _trace(job, after[job.name][0].queued_time, now, self._clock.now())
        return stored

    def _tell(self, connected: Mapping[str, Session], jobs: Sequence[Job]) -> None:
        """Send each agent what it has not been sent on its present stream."""
        for job in jobs:
            if job.state not in HOLDS_RESOURCES or job.attempt is None:
                continue
            for process in _processes(job.attempt):
                session = connected.get(process.node)
                if session is None or process.state not in LIVE:
                    continue
                what = "stop" if job.state is State.STOPPING else "assignment"
                if what == "assignment" and not _may_start(job.attempt, process):
                    continue
                key = (what, str(job.name), job.epoch, process.rank)
                if key in session.said:
                    continue
                session.said.add(key)
                session.send(
                    _stop(job, process.rank) if what == "stop" else self._assignment(job, process.rank)
                )

    def _assignment(self, job: Job, rank: int) -> agent_service_pb2.ConnectResponse:
        return agent_service_pb2.ConnectResponse(
            assignment=self._signer.sign(mapping.assignment_spec(job, rank))
        )


def _processes(attempt: Attempt) -> Sequence[Attempt | Replica]:
    """What its nodes are told of, one by one."""
    return attempt.replicas or (attempt,)


def _may_start(attempt: Attempt, process: Attempt | Replica) -> bool:
    """Whether a process is to be sent to its node: of a gang the first one, then all others with where to meet it."""
    first = process.rank == 0 or attempts.meeting_point(attempt) is not None
    return process.state is AttemptState.ASSIGNED and first


def _trace(job: Job, queued: datetime, planned: datetime, stored: datetime) -> None:
    """Write down in a job's trace that it was sent to a node, and how long it waited for that."""
    assert job.attempt is not None
    attributes = {
        "aios.project": job.name.project,
        "aios.job": str(job.name),
        "aios.owner": job.spec.owner,
        "aios.node": job.attempt.node,
    }
    for name, start, end in (("queue wait", queued, planned), ("assign", planned, stored)):
        telemetry.record_span(name, traceparent=job.traceparent, start=start, end=end, attributes=attributes)


def _drained(snapshot: Snapshot, now: datetime) -> dict[JobName, tuple[Job, Job]]:
    """Jobs on nodes that are drained, stopped to go on elsewhere."""
    draining = {node.name for node in snapshot.nodes if node.draining}
    found = (
        [job for job in snapshot.holding if job.attempt and draining & job.attempt.live_nodes]
        if draining
        else []
    )
    return {job.name: (job, after) for job in found if (after := jobs.drain(job, now)) is not job}


def _set_state(tx: Tx, name: str, state: NodeState) -> None:
    store.put_node(tx, replace(store.get_node(tx, name), state=state))


def _lives(said: Attempt) -> bool:
    return said.state in LIVE


def _stop(job: Job, rank: int) -> agent_service_pb2.ConnectResponse:
    grace = mapping.duration(job.spec.stop_grace)
    return agent_service_pb2.ConnectResponse(
        stop=agent_service_pb2.Stop(job=str(job.name), epoch=job.epoch, grace=grace, rank=rank)
    )
