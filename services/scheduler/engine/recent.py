"""What queues used lately: an average in which what is older counts less. Pure.

Exponentially decayed: after one half-life use counts half. As an average over time it has the measure of what is used
now, so the two can be added: a queue that always used the same has it equal to its present use.
"""

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Recent:
    """Decayed use by queue and resource, by the snapshot's numbering of both."""

    def __init__(self) -> None:
        self.half_life = 0.0
        """Seconds; 0: the past does not count, and is not kept."""
        self._held: Floats = np.zeros((0, 0))
        self._mean: Floats = np.zeros((0, 0))
        self._at = 0.0

    def change(self, queue: int, amounts: Ints, now: float) -> None:
        """A queue holds that much more, or less, from now on."""
        self._to(now)
        self._grow(queue + 1, len(amounts))
        self._held[queue, : len(amounts)] += amounts

    def mean(self, now: float, queues: int, resources: int) -> Floats:
        """The average of each queue now. Asking changes nothing."""
        found = np.zeros((queues, resources))
        part = self._averaged(now)[:queues, :resources]
        found[: part.shape[0], : part.shape[1]] = part
        return found

    def restore(self, half_life: float, mean: Floats, now: float) -> None:
        """Go on from what is known of the past.

        Args:
            mean: By queue and resource: see `part`.
        """
        self.half_life, self._at = half_life, now
        self._grow(*mean.shape)
        self._mean = np.zeros_like(self._held)
        self._mean[: mean.shape[0], : mean.shape[1]] = mean

    def copy(self) -> "Recent":
        """One that goes on by itself."""
        made = Recent()
        made.half_life, made._at = self.half_life, self._at
        made._held, made._mean = self._held.copy(), self._mean.copy()
        return made

    def _to(self, now: float) -> None:
        if now > self._at:
            self._mean, self._at = self._averaged(now), now

    def _averaged(self, now: float) -> Floats:
        if now <= self._at or self.half_life <= 0:
            return self._mean
        keep = 2.0 ** (-(now - self._at) / self.half_life)
        averaged: Floats = self._held + (self._mean - self._held) * keep
        return averaged

    def _grow(self, queues: int, resources: int) -> None:
        more = max(0, queues - len(self._held)), max(0, resources - self._held.shape[1])
        if any(more):
            self._held = np.pad(self._held, ((0, more[0]), (0, more[1])))
            self._mean = np.pad(self._mean, ((0, more[0]), (0, more[1])))


def part(start: float, end: float, now: float, half_life: float) -> float:
    """Of what was held from start to end, how much counts in the average now."""
    ago = (now - end) / half_life, (now - start) / half_life
    return float(2.0 ** -max(0.0, ago[0]) - 2.0 ** -max(0.0, ago[1]))
