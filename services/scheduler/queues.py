"""Queues: shares of the pool in a tree, and who may use which. Pure.

Every project has a queue of its own name. Until somebody makes it, that is a queue at the top with weight 1, to which
nothing is owed and nothing forbidden.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType

from aios.errors import Aborted, AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from aios.names import QueueName
from services.scheduler.resources import serves

QUEUES_MAX = 1000
"""A step looks at each of them."""
DEPTH_MAX = 8
"""Levels of the tree: more than any organisation has, and the work of a start grows with it."""
PROJECTS_MAX = 1000
WEIGHT_MAX = 1e6
AMOUNT_MAX = 2**60

Amounts = Mapping[str, float]
"""By resource: `cpu` in millicores, `memory` in bytes, accelerators by type in devices or parts of them, `gpu` for all
GPUs together."""
NOTHING: Amounts = MappingProxyType({})
EDITABLE = ("parent", "weight", "nominal", "limit", "lending_limit", "projects")
OUTPUT_ONLY = frozenset({"name", "usage", "create_time", "update_time", "etag"})


class QueueNotFound(NotFound):
    """There is no such queue, or the caller's project may not use it."""

    reason = "QUEUE_NOT_FOUND"


class QueueExists(AlreadyExists):
    """A queue of this name was made before: update it."""

    reason = "QUEUE_EXISTS"


class QueueInUse(FailedPrecondition):
    """Queues below it or live jobs name it. Move or end them first."""

    reason = "QUEUE_IN_USE"


class QueueChanged(Aborted):
    """It was changed after the caller read it. Read it again and repeat the change."""

    reason = "ETAG_MISMATCH"


class BeyondQueue(InvalidArgument):
    """The job asks for more than a queue may ever use. Ask for less, or have the limit raised."""

    reason = "BEYOND_QUEUE"


@dataclass(frozen=True)
class Queue:
    """A share of the pool.

    Attributes:
        name: Its id; that of a project, or any other.
        parent: Id of the queue that it is part of; empty at the top.
        weight: Of what is contended among its siblings.
        nominal: What is its own; what it uses beyond is borrowed.
        limit: The most that it and those under it may use. What it does not name is not limited.
        lending: How much of `nominal` others may use while it is idle. What it does not name is lent whole.
        projects: Who may use it beside the project of its name.
    """

    name: str
    parent: str = ""
    weight: float = 1.0
    nominal: Amounts = field(default_factory=lambda: NOTHING)
    limit: Amounts = field(default_factory=lambda: NOTHING)
    lending: Amounts = field(default_factory=lambda: NOTHING)
    projects: tuple[str, ...] = ()
    create_time: datetime | None = field(default=None, compare=False)
    update_time: datetime | None = field(default=None, compare=False)
    version: int = field(default=0, compare=False)

    def serves(self, project: str) -> bool:
        """Whether jobs of a project may be counted in it."""
        return project == self.name or project in self.projects


def check(queue: Queue, others: Iterable[Queue], field: str = "queue") -> Queue:
    """Return the queue if it can stand among the others.

    Raises:
        InvalidArgument: with every wrong field and what to change.
    """
    tree = {each.name: each for each in others} | {queue.name: queue}
    wrong = {f"{field}.{path}": problem for path, problem in _problems(queue, tree)}
    if wrong:
        raise InvalidArgument.of_all(wrong)
    return queue


def edit(current: Queue, wanted: Queue, mask: Collection[str], etag: str = "") -> Queue:
    """`current` with the fields of `wanted` that the mask names; with all of them where it names none.

    Raises:
        InvalidArgument: a path that no field has.
        QueueChanged: the etag is not the present one.
    """
    if etag and etag != str(current.version):
        raise QueueChanged(
            f"{QueueName(current.name)} has etag {current.version}, not {etag}: read it again.",
            etag=str(current.version),
        )
    unknown = [path for path in mask if path not in EDITABLE and path not in OUTPUT_ONLY]
    if unknown:
        known = ", ".join(EDITABLE)
        raise InvalidArgument.of(
            "update_mask", f"no field {unknown[0][:80]!r} can be changed; there are {known}"
        )
    fields = [path for path in mask if path in EDITABLE] if mask else EDITABLE
    named = {"lending" if path == "lending_limit" else path for path in fields}
    return replace(current, **{name: getattr(wanted, name) for name in named})


def path(name: str, queues: Mapping[str, Queue]) -> Iterator[str]:
    """A queue and those that it is part of, up to the top."""
    for _ in range(DEPTH_MAX + 1):
        if not name:
            return
        yield name
        queue = queues.get(name)
        name = queue.parent if queue else ""


def visible(project: str, queues: Mapping[str, Queue]) -> set[str]:
    """The queues that a project may use, and those that these are part of."""
    own = {project, *(queue.name for queue in queues.values() if queue.serves(project))}
    return {above for name in own for above in path(name, queues)}


def require_use(name: str, project: str, queues: Mapping[str, Queue]) -> str:
    """The queue that a project's job is counted in, where its spec names `name` (nothing: the project's own).

    Raises:
        InvalidArgument: the project may not use it, or there is none.
    """
    queue = queues.get(name)
    if not name or name == project or (queue is not None and queue.serves(project)):
        return name or project
    problem = f"project {project} may use no queue {name!r}; `aios queue list` shows those that it may"
    raise InvalidArgument.of("job.spec.queue", problem)


def check_limit(asked: Amounts, name: str, queues: Mapping[str, Queue]) -> None:
    """Refuse what the limits of a queue, and of those that it is part of, could never allow.

    Args:
        asked: By the whole job.

    Raises:
        BeyondQueue: with the figures of the narrowest limit.
    """
    for above, resource, most in _limits(name, queues):
        wanted = _sum(asked, resource)
        if wanted > most:
            message = f"asks for {figure(resource, wanted)}; {QueueName(above)} may use {figure(resource, most)} at most"
            raise BeyondQueue(f"The job {message}.", fields={"job.spec.resources": message})


def beyond(asked: Amounts, name: str, queues: Mapping[str, Queue], used: Mapping[str, Amounts]) -> str:
    """Why the quotas let a job wait, for people.

    Args:
        used: By the jobs of each queue, without those under it.
    """
    for above, resource, most in _limits(name, queues):
        under = [each for each in used if above in path(each, queues)]
        has, wanted = sum(_sum(used[each], resource) for each in under), _sum(asked, resource)
        if has + wanted > most:
            return (
                f"waits for {figure(resource, wanted)} of {QueueName(above)}: it uses {figure(resource, has)}"
                f" of the {figure(resource, most)} that it may"
            )
    return "waits for what other queues keep for themselves and do not lend"


def figure(resource: str, amount: float) -> str:
    """An amount for people: `4 gpu/H100`, `2.5 cpu`, `8.0 GiB of memory`."""
    if resource == "cpu":
        return f"{amount / 1000:g} cpu"
    if resource in ("memory", "scratch"):
        return f"{amount / 2**30:.1f} GiB of {resource}"
    return f"{amount:g} {resource}"


def _limits(name: str, queues: Mapping[str, Queue]) -> Iterator[tuple[str, str, float]]:
    """What a queue may use, and each that it is part of: queue, resource, amount."""
    for above in path(name, queues):
        if above in queues:
            for resource, most in queues[above].limit.items():
                yield above, resource, most


def _sum(amounts: Amounts, resource: str) -> float:
    return sum(amount for kind, amount in amounts.items() if kind == resource or serves(kind, resource))


def _problems(queue: Queue, tree: Mapping[str, Queue]) -> Iterator[tuple[str, str]]:
    if len(tree) > QUEUES_MAX:
        yield "name", f"would be one queue more than {QUEUES_MAX}"
    if queue.parent and queue.parent not in tree:
        yield "parent", f"queue {queue.parent!r} does not exist: make it first"
    elif queue.name in _above(queue, tree):
        yield "parent", "must not be the queue itself, nor one under it"
    elif _depth(queue, tree) > DEPTH_MAX:
        yield "parent", f"would be more than {DEPTH_MAX} levels deep"
    if not (0 < queue.weight <= WEIGHT_MAX and math.isfinite(queue.weight)):
        yield "weight", f"must be above 0 and at most {WEIGHT_MAX:g}"
    for name, amounts in (
        ("nominal", queue.nominal),
        ("limit", queue.limit),
        ("lending_limit", queue.lending),
    ):
        for resource, amount in amounts.items():
            if not 0 <= amount <= AMOUNT_MAX:
                yield name, f"{resource[:80]!r} must not be negative, nor beyond all measure"
    for resource, amount in queue.nominal.items():
        if amount > queue.limit.get(resource, amount):
            yield "limit", f"of {resource!r} must not be below `nominal`"
    for resource, amount in queue.lending.items():
        if amount > queue.nominal.get(resource, 0):
            yield "lending_limit", f"of {resource[:80]!r} must not be above `nominal`"
    if len(queue.projects) > PROJECTS_MAX:
        yield "projects", f"must be at most {PROJECTS_MAX}"


def _above(queue: Queue, tree: Mapping[str, Queue]) -> Sequence[str]:
    return list(path(queue.parent, tree))


def _depth(queue: Queue, tree: Mapping[str, Queue]) -> int:
    """Levels from the top to the deepest queue under this one."""
    under = [each for each in tree.values() if queue.name in path(each.name, tree)]
    return max(len(list(path(each.name, tree))) for each in under)
