"""What a simulation runs on: `60x8` is sixty nodes of eight GPUs, `8x1:v100,4x2:k80` eight and four of two types."""

import re
from collections.abc import Iterable

from services.scheduler.engine.model import Node

_PART = re.compile(r"(\d+)x(\d+)(?::([A-Za-z0-9._-]+))?")
AMPLE = 1 << 50
"""Of what a trace asks for and a specification does not count: processors, memory."""


def parse(spec: str, others: Iterable[str] = ()) -> list[Node]:
    """The nodes of a specification: parts `NODESxGPUS[:TYPE]` with commas between them.

    Args:
        others: Resources beside accelerators that jobs ask for; each node has ample of them.

    Raises:
        ValueError: It reads otherwise.
    """
    nodes: list[Node] = []
    for number, part in enumerate(spec.split(",")):
        found = _PART.fullmatch(part.strip())
        if found is None:
            raise ValueError(
                f"cluster {spec!r}: {part!r} is not NODESxGPUS or NODESxGPUS:TYPE, such as 4x8:h100"
            )
        count, gpus, kind = int(found[1]), int(found[2]), found[3]
        capacity = {f"gpu/{kind}" if kind else "gpu": gpus} | dict.fromkeys(others, AMPLE)
        nodes += [Node(f"{kind or 'node'}-{number}-{row}", capacity) for row in range(count)]
    if not nodes:
        raise ValueError(f"cluster {spec!r} has no node")
    return nodes


def devices(nodes: Iterable[Node]) -> int:
    """Accelerators of all nodes."""
    return sum(amount for node in nodes for name, amount in node.capacity.items() if amount != AMPLE)
