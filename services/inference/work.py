"""What model servers did lately, out of counters that only grow. Pure; time is an argument."""

from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import astuple, dataclass
from typing import Generic, TypeVar

KEEP_SECONDS = 60.0
"""Longer than the window that anybody looks at."""

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Work:
    """What one or more model servers counted; see `ReplicaWork` in the proto."""

    requests: int = 0
    rows: int = 0
    """Predictions: a request of a batch of eight is eight."""
    batches: int = 0
    """Executions of the model."""
    queue_micros: int = 0
    """Of all requests together, as the next one."""
    compute_micros: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def since(self, before: "Work") -> "Work":
        """What came on top; all of it where the counters began anew."""
        if self.requests < before.requests:
            return self
        return Work(*(max(0, a - b) for a, b in zip(astuple(self), astuple(before), strict=True)))


class Works(Generic[K]):
    """A short history of each server's counters. An attempt of its job that follows another begins at zero."""

    def __init__(self) -> None:
        self._known: dict[K, deque[tuple[float, int, Work]]] = {}

    def note(self, key: K, epoch: int, work: Work, at: float) -> None:
        """Take what a server has counted so far, and forget servers that have been silent for long."""
        history = self._known.setdefault(key, deque())
        if history and history[-1][1] != epoch:
            history.clear()
        history.append((at, epoch, work))
        while history[0][0] < at - KEEP_SECONDS:
            history.popleft()
        for silent in [each for each, found in self._known.items() if found[-1][0] < at - KEEP_SECONDS]:
            del self._known[silent]

    def lately(self, keys: Iterable[K], after: float) -> tuple[Work, float]:
        """What these did together since about `after`, and in how many seconds, at the longest."""
        total, seconds = Work(), 0.0
        for key in keys:
            history = self._known.get(key)
            if not history or history[-1][0] < after:
                continue
            first = next((each for each in reversed(history) if each[0] <= after), history[0])
            total += history[-1][2].since(first[2])
            seconds = max(seconds, history[-1][0] - first[0])
        return total, seconds
