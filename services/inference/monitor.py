"""What revisions did lately, out of the counters that the gateway reads from Envoy. Pure; time is an argument.

Nothing is stored: after a restart of this process windows begin anew, and trials take longer by what was forgotten.
Counters that went back are a new Envoy's, which starts at zero.
"""

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from services.inference.gates import Figures

KEEP_SECONDS = 900.0
"""The longest window. A trial's step that lasts longer is judged by its last quarter of an hour."""

QUIET_SECONDS = 1.0
"""After which a request that had chosen a replica has reached it."""
FRESH_SECONDS = 3.0
"""Counts come every second."""

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Counts:
    """What was counted of one revision, ever growing but for `in_flight`."""

    requests: int = 0
    errors: int = 0
    in_flight: int = 0
    bounds_millis: tuple[float, ...] = ()
    within: tuple[int, ...] = ()
    held: int = 0


@dataclass(frozen=True)
class Sample:
    """Counts at one moment of the monotonic clock, summed up over every Envoy so far."""

    at: float
    counts: Counts


class Monitor(Generic[K]):
    """A history of counts for each key."""

    def __init__(self) -> None:
        self._samples: dict[K, deque[Sample]] = {}
        self._raw: dict[K, Mapping[str, Counts]] = {}
        self._active: dict[K, float] = {}

    def note(self, key: K, counts: Mapping[str, Counts], at: float) -> None:
        """Take what was counted, by door."""
        history = self._samples.setdefault(key, deque())
        before = self._raw.get(key)
        self._raw[key] = counts
        in_flight = sum(each.in_flight for each in counts.values())
        if not history or before is None:
            # What was counted before we looked is nobody's.
            history.append(Sample(at, Counts(in_flight=in_flight)))
            self._active[key] = at
            return
        total = replace(history[-1].counts, in_flight=0)
        for door, now in counts.items():
            total = _sum(total, grown(before.get(door, Counts()), now))
        if total.requests > history[-1].counts.requests or total.held > history[-1].counts.held or in_flight:
            self._active[key] = at
        history.append(Sample(at, total))
        while history[0].at < at - KEEP_SECONDS:
            history.popleft()

    def keep(self, keys: frozenset[K]) -> None:
        """Forget every other key."""
        for known in (self._samples, self._raw, self._active):
            for key in known.keys() - keys:
                del known[key]

    def since(self, key: K, at: float) -> Figures:
        """What was done from `at` until now."""
        return figures(*self.window(key, at))

    def window(self, key: K, at: float) -> tuple[Sample, Sample]:
        """The last sample before `at`, or the first, and the newest. Both are empty where nothing is known."""
        history = self._samples.get(key)
        if not history:
            nothing = Sample(at, Counts())
            return nothing, nothing
        times = [each.at for each in history]
        return history[max(bisect_right(times, at) - 1, 0)], history[-1]

    def idle(self, key: K, at: float) -> float:
        """Seconds without a request, as far as is known; 0 for one that is not known."""
        return at - self._active[key] if key in self._active else 0.0

    def quiet(self, key: K, at: float) -> bool:
        """Whether it had nothing to do for QUIET_SECONDS, as somebody has looked since."""
        history = self._samples.get(key)
        if not history or at - history[-1].at > FRESH_SECONDS or history[-1].counts.in_flight:
            return False
        return history[-1].at - self._active[key] >= QUIET_SECONDS

    def held(self, key: K) -> bool:
        """Whether the newest counts tell of a request that found nobody."""
        history = self._samples.get(key)
        return history is not None and len(history) > 1 and history[-1].counts.held > history[-2].counts.held


def figures(first: Sample, last: Sample) -> Figures:
    """What was done between two samples."""
    done = grown(first.counts, last.counts)
    return Figures(done.requests, done.errors, quantile(done, 0.99))


def quantile(counts: Counts, share: float) -> float:
    """The time in milliseconds that this share of the requests did not exceed; NaN without requests.

    Interpolated within the range that it falls in; above the last bound, that bound.
    """
    total = counts.within[-1] if counts.within else 0
    if not total:
        return math.nan
    rank = share * total
    before, low = 0, 0.0
    for high, within in zip(counts.bounds_millis, counts.within, strict=True):
        if within >= rank:
            return low if math.isinf(high) else low + (high - low) * (rank - before) / max(1, within - before)
        before, low = within, high
    return low


def grown(before: Counts, after: Counts) -> Counts:
    """What came on top; all of it where the counters started again."""
    # Of held requests only growth counts: those that wait are counted again at once.
    held = max(0, after.held - before.held)
    if after.requests < before.requests:
        return replace(after, held=held)
    if len(after.within) == len(before.within):
        within = tuple(max(0, b - a) for a, b in zip(before.within, after.within, strict=True))
    else:  # Envoy tells of times only once there were some
        within = () if before.within else after.within
    return Counts(
        after.requests - before.requests,
        max(0, after.errors - before.errors),
        after.in_flight,
        after.bounds_millis,
        within,
        held,
    )


def _sum(total: Counts, more: Counts) -> Counts:
    if len(total.within) == len(more.within):
        within = tuple(a + b for a, b in zip(total.within, more.within, strict=True))
    else:
        within = more.within or total.within
    return Counts(
        total.requests + more.requests,
        total.errors + more.errors,
        total.in_flight + more.in_flight,
        more.bounds_millis or total.bounds_millis,
        within,
        total.held + more.held,
    )
