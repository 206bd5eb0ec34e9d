"""What the scheduler tells of itself over time."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, TypeVar

from aios.records import Database
from aios.records.counts import by_state
from aios.runtime.meters import EVERY_SECONDS, Labels, Levels
from services.scheduler import store
from services.scheduler.jobs import State
from services.scheduler.nodes import Node, NodeState
from services.scheduler.reconciler import Reconciler
from services.scheduler.resources import Resources

T = TypeVar("T")
Found = Iterable[tuple[float, Labels]]


def levels(db: Database, reconciler: Reconciler) -> list[Levels]:
    """Jobs and nodes by state, what each node has and what of it is held, what each queue runs and holds."""

    async def jobs() -> Found:
        return await db.read(lambda tx: by_state(tx, store.jobs.c.state, State))

    all_nodes = _Shared(lambda: db.read(store.all_nodes))
    usages = _Shared(reconciler.usages)

    async def nodes() -> Found:
        found = await all_nodes.get()
        return [
            (sum(node.state is state for node in found), {"state": state.value.lower()})
            for state in NodeState
        ]

    async def capacity() -> Found:
        ready = [node for node in await all_nodes.get() if node.state is NodeState.READY]
        return [figure for node in ready for figure in _by_resource(node, node.capacity)]

    async def held() -> Found:
        holds = await db.read(store.held)
        return [
            (holds.get(node.name, Resources()).named().get(labels["resource"], 0), labels)
            for node in await all_nodes.get()
            if node.state is NodeState.READY
            for _, labels in _by_resource(node, node.capacity)
        ]

    async def queues() -> Found:
        return [
            (count, {"queue": queue, "state": state})
            for queue, usage in (await usages.get()).items()
            for state, count in (("running", usage.running_jobs), ("queued", usage.pending_jobs))
            if queue
        ]

    async def used() -> Found:
        return [
            (amount, {"queue": queue, "resource": resource})
            for queue, usage in (await usages.get()).items()
            for resource, amount in usage.used.items()
            if queue
        ]

    about = "cpu in thousandths of a core, memory in bytes, accelerators in devices"
    return [
        Levels("aios.jobs", "{job}", "Jobs by state.", jobs),
        Levels("aios.nodes", "{node}", "Nodes by state.", nodes),
        Levels("aios.node.capacity", "", f"What a ready node has: {about}.", capacity),
        Levels("aios.node.held", "", f"What jobs hold of it: {about}.", held),
        Levels(
            "aios.queue.jobs", "{job}", "Jobs that hold something or wait, queues below included.", queues
        ),
        Levels("aios.queue.used", "", f"What jobs of a queue hold: {about}.", used),
    ]


class _Shared(Generic[T]):
    """What several figures of one moment are made of, read once for all of them."""

    def __init__(self, read: Callable[[], Awaitable[T]]) -> None:
        self._read = read
        self._reading = asyncio.Lock()
        self._found: T | None = None
        self._at = -EVERY_SECONDS

    async def get(self) -> T:
        """As it was less than half a period ago."""
        async with self._reading:
            if self._found is None or time.monotonic() - self._at > EVERY_SECONDS / 2:
                self._found, self._at = await self._read(), time.monotonic()
            return self._found


def _by_resource(node: Node, amounts: Resources) -> list[tuple[float, Labels]]:
    return [(amount, {"node": node.name, "resource": name}) for name, amount in amounts.named().items()]
