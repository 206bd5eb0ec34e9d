"""`utility`: maximise Σ wᵢ U(tᵢ), where tᵢ is the part of all time that job i makes on its best type. Pure.

U is concave: who has much gains little by more. As tangents lie above a concave function, the program is linear with one
line for each tangent: exact where U consists of lines, and else refined by further tangents where the last solution lies
(Kelley's cutting planes, 1960). U = log gives proportional fairness (Kelly, Maulloo and Tan, 1998).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from services.scheduler.engine.linear import Groups, solve_curved
from services.scheduler.engine.snapshot import Floats

GAP = 5e-3
"""Of U, averaged over jobs by their weights, that a solution may be below the optimum."""
CUTS_MAX = 12
FLOOR = 1e-3
"""Of an equal share: below it the logarithm goes on as a line, so that nobody's share is worth minus infinity."""
STARTS, AROUND = 7, 6.0
"""Tangents at first, evenly on a logarithmic scale, so many times around an equal share."""


class Curve(Protocol):
    """What a part of all time is worth to a job."""

    @property
    def exact(self) -> bool:
        """Whether `first` holds all lines that there are."""

    def first(self, equal: float) -> tuple[Floats, Floats]:
        """Slopes and heights of lines above it, to begin with.

        Args:
            equal: The part of all time that an equal share is.
        """

    def tangents(self, times: Floats, equal: float) -> tuple[Floats, Floats]:
        """Slope and height of its tangent at each."""

    def worth(self, times: Floats, equal: float) -> Floats:
        """Of each."""


@dataclass(frozen=True)
class Log:
    """U(t) = log t."""

    exact: bool = False

    def first(self, equal: float) -> tuple[Floats, Floats]:
        # Most shares lie near an equal one.
        near = np.geomspace(equal / AROUND, min(1.0, equal * AROUND), STARTS)
        return self.tangents(np.append(FLOOR * equal, near), equal)

    def tangents(self, times: Floats, equal: float) -> tuple[Floats, Floats]:
        at = np.maximum(times, FLOOR * equal)
        return 1 / at, np.log(at) - 1

    def worth(self, times: Floats, equal: float) -> Floats:
        slopes, heights = self.tangents(times, equal)
        worth: Floats = heights + slopes * times
        return worth


@dataclass(frozen=True)
class Lines:
    """U through (0, 0) and these points, by straight lines; a single point is a linear utility."""

    points: Sequence[tuple[float, float]] = ((1.0, 1.0),)
    exact: bool = True

    def first(self, equal: float) -> tuple[Floats, Floats]:
        times, worth = np.array([(0.0, 0.0), *self.points]).T
        slopes = np.append(np.diff(worth) / np.diff(times), 0.0)
        heights = worth - slopes * times
        return slopes, heights

    def tangents(self, times: Floats, equal: float) -> tuple[Floats, Floats]:
        slopes, heights = self.first(equal)
        line = (heights + slopes * times[:, None]).argmin(axis=1)
        return slopes[line], heights[line]

    def worth(self, times: Floats, equal: float) -> Floats:
        slopes, heights = self.first(equal)
        worth: Floats = (heights + slopes * times[:, None]).min(axis=1)
        return worth


@dataclass(frozen=True)
class Useful:
    """Shares of time by job and type, and by how much their sum of utilities may be below the best there is."""

    shares: Floats
    gap: float


def utility(value: Floats, gangs: Floats, capacity: Floats, weights: Floats, curve: Curve) -> Useful:
    """The shares of which the weighted sum of utilities is largest.

    Args:
        value: What a job makes of its time on each type: 1 on its best.
    """
    if not len(gangs):
        return Useful(np.zeros_like(value), 0.0)
    # Jobs that differ in weight are no group.
    groups = Groups.of(np.column_stack([value, weights]), gangs, capacity)
    worth = groups.counts * groups.value[:, -1]
    worth = worth / worth.sum()
    groups = Groups(groups.value[:, :-1], groups.gangs, groups.counts, capacity, groups.member)
    equal = min(1.0, float(capacity.sum() / (gangs.sum())))
    slope, height = curve.first(equal)
    slopes, heights = (np.tile(each, (len(worth), 1)) for each in (slope, height))
    shares, gap = np.zeros_like(groups.value), np.inf
    for _ in range(CUTS_MAX):
        found, hoped = solve_curved(groups, worth, slopes, heights)
        times = (found * groups.value).sum(axis=1) / groups.counts
        # The hoped-for sum is above every solution's, and the true one below the best.
        above = float(worth @ (hoped - curve.worth(times, equal)))
        if above < gap:
            shares, gap = found, above
        if curve.exact or gap <= GAP:
            break
        slope, height = curve.tangents(times, equal)
        slopes, heights = np.column_stack([slopes, slope]), np.column_stack([heights, height])
    return Useful(groups.spread(shares), max(0.0, gap))
