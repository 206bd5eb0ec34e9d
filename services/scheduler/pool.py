"""The engine's snapshot of the pool, kept in step with the records: each change of a job or node is one change of it."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from aios.names import JobName
from aios.scheduling import DEVICE_MILLIS, is_device, taints
from services.scheduler.engine import model
from services.scheduler.engine.plan import Decide, startable
from services.scheduler.engine.snapshot import Snapshot
from services.scheduler.jobs import PREEMPTED, Job, State, due
from services.scheduler.nodes import Node
from services.scheduler.policies import Policy, compose
from services.scheduler.progress import Progress
from services.scheduler.queues import Queue
from services.scheduler.resources import NOTHING, Resources
from services.scheduler.specs import Kind


@dataclass(frozen=True)
class Changes:
    """What has become of jobs since a pool last followed them."""

    jobs: Sequence[Job] = ()
    """Those that came or changed, as they are now."""
    gone: Sequence[JobName] = ()


RESIZE_SECONDS = 30.0
"""That a resize is taken to cost until the job has shown it: a process that loads a framework and a checkpoint."""
RACK = "rack"
"""The label that says which nodes are near each other."""


class Pool:
    """What the scheduler plans from. Jobs are named as people name them."""

    def __init__(self) -> None:
        self.snapshot = Snapshot()
        self._jobs: dict[JobName, Job] = {}
        self._pausing: dict[JobName, Job] = {}
        self._nodes: dict[str, Node] = {}
        self._queues: dict[str, Queue] = {}
        self._nodes_seen: Sequence[Node] = ()
        self._policy: tuple[Policy, Decide] | None = None

    def follow(
        self,
        jobs: Sequence[Job],
        nodes: Sequence[Node],
        now: datetime,
        queues: Sequence[Queue] = (),
        changes: Changes | None = None,
    ) -> None:
        """Take over what has changed.

        Args:
            jobs: All that wait or hold something.
            nodes: All that ever registered.
            queues: All that were made.
            changes: How the jobs differ from those that were followed last; without it they are compared.
        """
        self._put_queues(queues)
        if nodes is not self._nodes_seen:
            for node in nodes:
                if self._nodes.get(node.name) != node:
                    self._put_node(node)
            self._nodes_seen = nodes
        changes = changes or self._compared(jobs)
        for name in changes.gone:
            if self._jobs.pop(name, None) is not None:
                self._pausing.pop(name, None)
                self.snapshot.remove(str(name), now.timestamp())
        # In the order of acceptance, so that what each has met so far is known again after a restart.
        new = [job for job in changes.jobs if job.name not in self._jobs]
        for job in sorted(new, key=lambda job: job.number):
            self._add(job)
        # What waits first: what was given back is free before anything takes it.
        for job in sorted(changes.jobs, key=lambda job: job.state is not State.QUEUED):
            self._put_job(job, now)
        for job in self._pausing.values():
            until = -math.inf if due(job, now) else math.inf
            if self.snapshot.due[self.snapshot.slots[str(job.name)]] != until:
                self.snapshot.pause(str(job.name), until)

    def _compared(self, jobs: Sequence[Job]) -> Changes:
        gone = self._jobs.keys() - {job.name for job in jobs}
        # Most have not changed: each is the very one that was seen last.
        return Changes([job for job in jobs if self._jobs.get(job.name) is not job], tuple(gone))

    def decide(self, policy: Policy, now: datetime, *, preempt: bool) -> model.Plan:
        """The engine's plan, with only those starts that have room before anything has stopped."""
        if self._policy is None or self._policy[0] != policy:
            self._policy = policy, compose(policy)
        decided = self._policy[1](self.snapshot, now.timestamp(), preempt)
        decided = self._without_moves(decided)
        if not decided.stops:
            return decided
        return replace(decided, starts=startable(self.snapshot, decided.starts, now.timestamp()))

    def granted(self, start: model.Start) -> Resources:
        """What a job gets where it starts."""
        job, placement = self.snapshot.jobs[start.job], start.placement
        return _resources(self.snapshot.amounts(start.job, placement.kind), job, placement)

    def _without_moves(self, decided: model.Plan) -> model.Plan:
        """A job that is to run elsewhere is stopped now, and starts there in a later step."""
        states, slots = self.snapshot.state, self.snapshot.slots
        moved = {start.job for start in decided.starts if states[slots[start.job]] != model.WAITING}
        if not moved:
            return decided
        starts = tuple(start for start in decided.starts if start.job not in moved)
        resizes = {
            start.job: start.placement.replicas
            for start in decided.starts
            if start.job in moved and start.placement.replicas != self.snapshot.size(slots[start.job])
        }
        stops = (*decided.stops, *sorted(moved))
        return replace(decided, starts=starts, stops=stops, resizes=resizes)

    def _put_queues(self, queues: Sequence[Queue]) -> None:
        for queue in queues:
            if self._queues.get(queue.name) != queue:
                self.snapshot.put_queue(
                    model.Queue(
                        queue.name, queue.parent, queue.weight, queue.nominal, queue.limit, queue.lending
                    )
                )
                self._queues[queue.name] = queue
        for name in self._queues.keys() - {queue.name for queue in queues}:
            self.snapshot.remove_queue(name)
            del self._queues[name]

    def _put_node(self, node: Node) -> None:
        rack, keeps_away = node.labels.get(RACK, ""), taints(node.labels)
        has = node.capacity
        self.snapshot.put_node(
            model.Node(node.name, has.named(), node.labels, rack, keeps_away, has.device_memory)
        )
        if not node.takes_jobs:
            self.snapshot.remove_node(node.name)
        self._nodes[node.name] = node

    def _add(self, job: Job) -> None:
        started = job.attempt.assign_time if job.attempt and _runs(job) else None
        self.snapshot.add(
            asked(job),
            ran=job.ran.total_seconds(),
            waited=job.waited.total_seconds(),
            since=(started or job.queued_time).timestamp(),
        )

    def _put_job(self, job: Job, now: datetime) -> None:
        name, before = str(job.name), self._jobs.get(job.name)
        if before != job:
            self._move(name, before, job, now)
            self._tell(name, before, job)
        self._jobs[job.name] = job
        if job.retry_time is not None:
            self._pausing[job.name] = job
        else:
            self._pausing.pop(job.name, None)

    def _move(self, name: str, before: Job | None, job: Job, now: datetime) -> None:
        if job.state is State.QUEUED:
            if before is not None and before.state is not State.QUEUED:
                self.snapshot.wait(name, now.timestamp())
            return
        assert job.attempt is not None
        if before is None or before.epoch != job.epoch or before.state is State.QUEUED:
            kind = self.snapshot.kind_of(name, job.attempt.granted.named())
            since = job.attempt.assign_time or now
            nodes = tuple(Counter(job.attempt.nodes).items())
            placement = model.Placement(nodes, kind, job.attempt.granted.shared_device)
            self.snapshot.start(name, placement, since.timestamp())
        if job.state is State.STOPPING:
            self.snapshot.stopping(name)

    def _tell(self, name: str, before: Job | None, job: Job) -> None:
        """How far the job says that it has come."""
        said, attempt = job.progress, job.attempt
        if said is None or attempt is None or (before is not None and before.progress == said and _runs(job)):
            return
        if said.epoch != attempt.epoch:
            # It goes on from its newest checkpoint, or further, and will say so.
            if before is None:
                self._report(name, said, said.saved_step, said.saved_step)
            return
        if _runs(job):
            self._report(name, said, said.step, said.restored_step)
        else:
            kept = said.step if said.saves and job.reason == PREEMPTED else said.saved_step
            self._report(name, said, kept, kept)
        if said.steps_per_second:
            kind = self.snapshot.kind_of(name, attempt.granted.named())
            self.snapshot.measured(name, kind, said.steps_per_second)

    def _report(self, name: str, said: Progress, done: int, begun: int) -> None:
        self.snapshot.reported(
            name,
            done=done,
            begun=begun,
            work=said.total_steps,
            restart=said.load_time.total_seconds() if said.load_time else self.snapshot.jobs[name].restart,
            saves=said.saves or self.snapshot.jobs[name].saves,
        )


def _runs(job: Job) -> bool:
    return job.state is not State.QUEUED


def asked(job: Job) -> model.Job:
    """A job as the engine sees it."""
    said = job.spec.scheduling
    expected = said.expected_duration or said.max_run_time
    return model.Job(
        name=str(job.name),
        number=job.number,
        submitted=job.create_time.timestamp(),
        replica=job.spec.resources.named(),
        replicas=job.spec.replicas,
        least=job.spec.min_replicas,
        queue=job.spec.queue or job.name.project,
        priority=job.spec.priority,
        selector=said.node_selector,
        prefers=said.node_preference,
        tolerates=said.tolerations,
        together=said.topology.key if said.topology else "",
        strictly=said.topology is not None and said.topology.required,
        weight=said.weight,
        # A service answers people: it is stopped by those who started it, never to make room unless it says so.
        preemptible=job.spec.kind is Kind.BATCH if said.preemptible is None else said.preemptible,
        min_runtime=said.min_run_time.total_seconds(),
        deadline=said.deadline.timestamp() if said.deadline else math.inf,
        speeds=said.speeds,
        estimate=expected.total_seconds() if expected else 0.0,
        saves=said.preemptible is True,
        restart=RESIZE_SECONDS if job.spec.min_replicas else 0.0,
        device_memory=sum(job.spec.resources.device_memory.values()),
    )


def _resources(amounts: model.Amounts, job: model.Job, placement: model.Placement) -> Resources:
    """What one replica of a job is granted there."""
    devices = {name: amount for name, amount in amounts.items() if is_device(name)}
    plain = int(amounts.get("cpu", 0)), int(amounts.get("memory", 0))
    others = amounts.keys() - devices.keys() - {"cpu", "memory"}
    budgets = {name: int(amounts[name]) for name in others}
    if not placement.device:
        return Resources(*plain, {name: int(amount) for name, amount in devices.items()}, budgets=budgets)
    share = {name: round(amount * DEVICE_MILLIS) for name, amount in devices.items()}
    memory = {placement.kind: job.device_memory}
    return Resources(*plain, NOTHING, share, memory, placement.device, budgets)
