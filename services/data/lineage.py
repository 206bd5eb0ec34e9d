"""The graph of what was made from what: edges between resource names, and the walk along them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum

from aios.errors import InvalidArgument
from aios.names import (
    CheckpointName,
    DatasetVersionName,
    DeploymentName,
    JobName,
    LabelProjectName,
    ModelVersionName,
    RevisionName,
    RunName,
    project_of,
)

EDGES_MAX = 1_000  # in one answer: a graph that a person can still look at
RECORD_MAX = 1_000  # in one call
NAME_CHARS_MAX = 255  # three ids of full length fit
KINDS = (
    DatasetVersionName,
    LabelProjectName,
    RunName,
    CheckpointName,
    ModelVersionName,
    DeploymentName,
    RevisionName,
    JobName,
)


class Relation(StrEnum):
    """How the target of an edge relates to its source."""

    INPUT = "input"  # the target read the source
    PRODUCED = "produced"  # the source made the target
    DEPLOYED = "deployed"  # the target serves the source


class Direction(Enum):
    """Which way to walk."""

    UP = "up"  # towards what it came from
    DOWN = "down"  # towards what came from it
    BOTH = "both"


@dataclass(frozen=True, order=True)
class Edge:
    """`target` was made from, or uses, `source`."""

    source: str
    target: str
    relation: Relation


@dataclass(frozen=True)
class Walk:
    """What a walk found."""

    edges: Sequence[Edge]
    """Nearest first."""
    truncated: bool
    """There is more than EDGES_MAX."""


Neighbours = Callable[[Iterable[str], Direction], Iterable[Edge]]
"""The edges that leave any of some names upwards (they are targets) or downwards (they are sources)."""


def check_edge(source: str, target: str, relation: str, project: str, path: str) -> Edge:
    """An edge that may be recorded.

    Raises:
        InvalidArgument: naming the field below `path`.
    """
    for end, name in (("source", source), ("target", target)):
        check_node(name, project, f"{path}.{end}")
    if source == target:
        raise InvalidArgument.of(f"{path}.target", "must differ from the source")
    try:
        return Edge(source, target, Relation(relation))
    except ValueError:
        allowed = ", ".join(each.value for each in Relation)
        raise InvalidArgument.of(f"{path}.relation", f"must be one of {allowed}") from None


def check_node(name: str, project: str, path: str) -> str:
    """A name that can stand in the graph.

    Raises:
        InvalidArgument: naming `path`. It does not tell whether another project has the resource.
    """
    if not any(kind.matches(name) for kind in KINDS):
        raise InvalidArgument.of(
            path,
            "must name a dataset version, label project, run, checkpoint, model version, deployment or job",
        )
    if len(name) > NAME_CHARS_MAX:
        raise InvalidArgument.of(path, f"must not be longer than {NAME_CHARS_MAX} characters")
    if project_of(name) != project:
        raise InvalidArgument.of(path, f"must lie in projects/{project}")
    return name


def walk(start: str, direction: Direction, neighbours: Neighbours, limit: int = EDGES_MAX) -> Walk:
    """Everything reachable, breadth first, each edge once.

    A walk up never turns down, nor the reverse: both ways from a dataset are its descendants, not their other parents.
    """
    ways = (Direction.UP, Direction.DOWN) if direction is Direction.BOTH else (direction,)
    found: dict[Edge, None] = {}
    frontiers = {way: [start] for way in ways}
    seen = {way: {start} for way in ways}
    while any(frontiers.values()):
        for way in ways:
            edges = sorted(neighbours(frontiers[way], way)) if frontiers[way] else []
            frontiers[way] = []
            for edge in edges:
                if edge not in found and len(found) == limit:
                    return Walk(tuple(found), truncated=True)
                found[edge] = None
                name = edge.source if way is Direction.UP else edge.target
                if name not in seen[way]:
                    seen[way].add(name)
                    frontiers[way].append(name)
    return Walk(tuple(found), truncated=False)
