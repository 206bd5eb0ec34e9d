"""Spans of predicted starts that hold as often as they say, by how far earlier ones were off. Pure.

A forecast draws what is known to be unknown. What it does not foresee, jobs that come later and pass, makes its spans
too narrow, and nobody knows by how much but from the past. So each span is widened, on either side, by as much as
nineteen of twenty earlier ones of its kind would have needed there: conformalised quantiles (Romano, Patterson and
Candes, NeurIPS 2019), which hold nine times in ten whatever the spans are made of, as long as the future is like the
past. Only the newest count, since policies and loads change.

How far a moment is outside is a factor of the wait: an hour is little of a week and much of a minute.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from services.scheduler.engine.forecast import Basis, Forecast

SIDE = 0.95
"""Part of the spans that is to hold on each of its two sides."""
NEWEST = 40
"""Spans that count: enough for nineteen of twenty of them, few enough to follow a load that changes."""
FLOOR_SECONDS = 60.0
"""Added to every wait: nothing starts at a more exact time."""
OPEN_MAX = 256
"""Predictions that are remembered until their job starts."""
LEAST: Mapping[bool, tuple[float, float]] = {False: (0.1, 0.25), True: (0.25, 0.85)}
"""By how much a span is widened in any case, early and late, under policies that stop nobody and under those that do: what
the spans of Shockwave's trace needed."""


@dataclass(frozen=True)
class _Told:
    now: float
    found: Forecast


class Calibration:
    """What was told and what became of it. One for each policy: another one is wrong in another way.

    Args:
        preempts: Whether the policy stops jobs for others.
    """

    def __init__(self, *, preempts: bool) -> None:
        self._preempts = preempts
        self._open: OrderedDict[str, _Told] = OrderedDict()
        self._early: dict[Basis, deque[float]] = {basis: deque(maxlen=NEWEST) for basis in Basis}
        self._late: dict[Basis, deque[float]] = {basis: deque(maxlen=NEWEST) for basis in Basis}

    @property
    def open(self) -> Sequence[str]:
        """Jobs that were told when they start, and have not been seen to start."""
        return tuple(self._open)

    def told(self, job: str, now: float, found: Forecast) -> None:
        """A job was told this, as it was drawn. The first time counts: it is asked for the more often the longer it takes."""
        if found.start is not None and job not in self._open:
            self._open[job] = _Told(now, found)
            while len(self._open) > OPEN_MAX:
                self._open.popitem(last=False)

    def started(self, job: str, moments: Sequence[float] | None) -> None:
        """When a job started, each time that it did so far; None: it never will any more."""
        told = self._open.get(job)
        if told is None:
            return
        at = min((each for each in moments or () if each >= told.now), default=None)
        if at is None and moments is not None:
            return
        del self._open[job]
        if at is None:
            return
        found, truth = told.found, _scale(at - told.now)
        if found.earliest is not None:
            self._early[found.basis].append(_scale(found.earliest - told.now) - truth)
        if found.latest is not None:
            self._late[found.basis].append(truth - _scale(found.latest - told.now))

    def widened(self, now: float, found: Forecast) -> Forecast:
        """The same with a span that holds nine times in ten."""
        least_early, least_late = LEAST[self._preempts]
        early = _needed(self._early[found.basis], least_early)
        late = _needed(self._late[found.basis], least_late)
        return replace(
            found,
            earliest=None if found.earliest is None else now + _unscale(_scale(found.earliest - now) - early),
            latest=None if found.latest is None else now + _unscale(_scale(found.latest - now) + late),
        )


def _needed(scores: Sequence[float], least: float) -> float:
    """By how much a side is to be moved: as far as that part of the earlier ones needed, all where they are too few."""
    rank = min(len(scores), math.ceil((len(scores) + 1) * SIDE))
    return max(least, sorted(scores)[rank - 1]) if scores else least


def _scale(wait: float) -> float:
    return math.log(FLOOR_SECONDS + max(0.0, wait))


def _unscale(value: float) -> float:
    return max(0.0, math.exp(value) - FLOOR_SECONDS)
