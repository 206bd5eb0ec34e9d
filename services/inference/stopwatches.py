"""How long things have been as they are. Pure; time is an argument."""

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Stopwatches(Generic[K]):
    """One stopwatch per key, on the monotonic clock.

    A key counts from when it was first seen: after a restart of this process everything has its full time again.
    """

    def __init__(self) -> None:
        self._since: dict[K, float] = {}

    def restart(self, key: K, at: float) -> None:
        """Count from now."""
        self._since[key] = at

    def lasting(self, keys: Iterable[K], at: float, seconds: float) -> frozenset[K]:
        """Which of `keys` have lasted that long. Every other key is forgotten."""
        self._since = {key: self._since.get(key, at) for key in keys}
        return frozenset(key for key, since in self._since.items() if at - since >= seconds)
