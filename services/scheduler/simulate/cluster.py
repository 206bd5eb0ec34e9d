"""What a simulation runs on: `60x8` is sixty nodes of eight GPUs, `8x1:v100,4x2:k80` eight and four of two types.

What a node has besides is written after it, `2x4:h100/cpu=64/memory=512GiB`; of what is not written there is ample.
Labels and taints are too: `4x8:h100/@rack=r1/!dedicated=lab`.
"""

import re
from collections.abc import Iterable, Mapping

from services.scheduler.engine.model import Node

_PART = re.compile(r"(\d+)x(\d+)(?::([A-Za-z0-9._-]+))?((?:/[@!]?[A-Za-z0-9._-]+=[^/,]+)*)")
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)([KMGT]iB)?")
_UNITS = {None: 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
AMPLE = 1 << 50
"""Of what a trace asks for and a specification does not count: processors, memory."""


def parse(spec: str, others: Iterable[str] = ()) -> list[Node]:
    """The nodes of a specification: parts with commas between them, each `NODESxGPUS[:TYPE]` and what comes after it:
    `/cpu=CORES`, `/memory=BYTES`, `/@LABEL=VALUE`, `/!TAINT=VALUE`.

    Args:
        others: Resources beside accelerators that jobs ask for; each node has ample of those that are not written.

    Raises:
        ValueError: It reads otherwise.
    """
    nodes: list[Node] = []
    for number, part in enumerate(spec.split(",")):
        found = _PART.fullmatch(part.strip())
        if found is None:
            raise ValueError(
                f"cluster {spec!r}: {part!r} is not NODESxGPUS or NODESxGPUS:TYPE, such as 4x8:h100/cpu=64"
            )
        count, gpus, kind = int(found[1]), int(found[2]), found[3]
        said = [each for each in found[4].split("/") if each]
        labels, taints = (
            dict(each[1:].split("=", 1) for each in said if each.startswith(mark)) for mark in "@!"
        )
        more = dict(_amount(each) for each in said if each[0] not in "@!")
        capacity = {f"gpu/{kind}" if kind else "gpu": gpus} if gpus else {}
        capacity |= dict.fromkeys(others, AMPLE) | more
        name, rack = f"{kind or 'node'}-{number}", labels.get("rack", "")
        nodes += [Node(f"{name}-{row}", capacity, labels, rack, taints) for row in range(count)]
    if not nodes:
        raise ValueError(f"cluster {spec!r} has no node")
    return nodes


def counted(nodes: Iterable[Node]) -> str:
    """What a pool is measured by: its GPUs, or processors where it has none."""
    return "gpu" if any(_of(node.capacity, "gpu") for node in nodes) else "cpu"


def amount(resources: Mapping[str, float], measure: str) -> float:
    """So much of what a pool is measured by."""
    found = _of(resources, measure)
    return found / 1000 if measure == "cpu" else found


def devices(nodes: Iterable[Node]) -> float:
    """GPUs of all nodes, or their processors where none has any; one at least."""
    nodes = list(nodes)
    measure = counted(nodes)
    return max(1.0, sum(amount(node.capacity, measure) for node in nodes))


def _of(resources: Mapping[str, float], family: str) -> float:
    return sum(
        number
        for name, number in resources.items()
        if (name == family or name.startswith(f"{family}/")) and number < AMPLE
    )


def _amount(text: str) -> tuple[str, int]:
    name, _, value = text.partition("=")
    found = _AMOUNT.fullmatch(value)
    if name not in ("cpu", "memory") or found is None:
        raise ValueError(f"{text!r} is not cpu=CORES or memory=64GiB")
    return name, round(float(found[1]) * (1000 if name == "cpu" else _UNITS[found[2]]))
