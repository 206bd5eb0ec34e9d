"""What Envoy has counted of each revision, out of its statistics. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Json = dict[str, Any]

# A model that answers 400 to everything is as broken as one that answers 500: all that is no prediction counts. What
# clients send wrong counts too, for every revision alike.
_ERRORS: dict[str, tuple[str, ...]] = {
    "http": ("upstream_rq_4xx", "upstream_rq_5xx"),
    "grpc": tuple(f"grpc.{code}" for code in range(2, 17)),  # neither OK nor cancelled by the client
}
_REQUESTS, _ACTIVE, _REFUSED = "upstream_rq_completed", "upstream_rq_active", "upstream_cx_connect_fail"
_TIME = "upstream_rq_time"
_NAMES = "|".join((*_ERRORS["http"], *_ERRORS["grpc"], _REQUESTS, _ACTIVE, _REFUSED, _TIME)).replace(
    ".", r"\."
)
FILTER = rf"^cluster\.[^.]*~[^.]*\.({_NAMES})$"
"""Of the names of Envoy's statistics, those that are counted here."""


class Key(NamedTuple):
    """Whose counts they are, and at which door. Each counts by itself: Envoy may begin anew with one of them alone."""

    project: str
    deployment: str
    revision: str
    protocol: str


@dataclass
class Counts:
    """Of one revision at one door, since Envoy began to count."""

    requests: int = 0
    errors: int = 0
    in_flight: int = 0
    refused: int = 0
    """Connections that found nobody."""
    within: dict[float, int] = field(default_factory=lambda: defaultdict(int))
    """Requests that took no longer than so many milliseconds."""


def counts(stats: Iterable[Json]) -> dict[Key, Counts]:
    """The counts by revision and door, of statistics as the admin interface gives them."""
    found: dict[Key, Counts] = defaultdict(Counts)
    for key, name, value in _values(stats):
        one = found[key]
        if name == _REQUESTS:
            one.requests += value
        elif name == _ACTIVE:
            one.in_flight += value
        elif name == _REFUSED:
            one.refused += value
        elif name in _ERRORS[key.protocol]:
            one.errors += value
        elif name == _TIME:
            for bucket in value:
                one.within[float(bucket["upper_bound"])] += int(bucket["cumulative"])
    return dict(found)


def _values(stats: Iterable[Json]) -> Iterator[tuple[Key, str, Any]]:
    for each in stats:
        named = ((each["name"], each["value"]),) if "name" in each else _histograms(each)
        for name, value in named:
            _, cluster, rest = name.split(".", 2)
            project, deployment, revision, protocol = cluster.split("~")
            yield Key(project, deployment, revision, protocol), rest, value


def _histograms(part: Json) -> Iterator[tuple[str, list[Json]]]:
    for each in part.get("histograms", ()):
        yield each["name"], each.get("buckets", [])
