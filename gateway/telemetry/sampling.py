"""Which traces are kept when more come than are worth their work: whole ones, chosen by their ids.

To make a span costs its maker as much as a refused call does: the door, where most traces begin, is told to begin
fewer (`Edge.follow_load`).
"""

import time
from collections.abc import Callable

SPANS_PER_SECOND_MAX = 500
"""A tenth of a core at most. A person reads one trace; a thousand calls a second make three thousand spans."""


class Sampler:
    """Keeps every trace while there are few, and then the share of them that fits, of every sender the same ones."""

    def __init__(
        self, per_second: int = SPANS_PER_SECOND_MAX, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_second = per_second
        self._clock = clock
        self._began = clock()
        self._offered = self._kept = 0
        self._share = 1.0

    def wanted(self, share: float) -> float:
        """What share of requests those who make traces should trace, who trace `share` of them now."""
        rate = self._offered / max(self._clock() - self._began, 0.1)
        if rate > self._per_second:
            return share * self._per_second / rate
        return min(1.0, share * 2) if rate < self._per_second / 2 else share

    def keeps(self, trace_id: bytes) -> bool:
        """Whether a span of this trace is kept."""
        now = self._clock()
        if now - self._began >= 1:
            rate = self._offered / (now - self._began)
            self._share = min(1.0, self._per_second / rate) if rate else 1.0
            self._began, self._offered, self._kept = now, 0, 0
        self._offered += 1
        # The last bytes are random, whoever made the id. Source: W3C Trace Context, level 2.
        if self._kept >= 2 * self._per_second or int.from_bytes(trace_id[-4:]) >= self._share * 2**32:
            return False
        self._kept += 1
        return True
