"""Time as an argument. Leases use `monotonic`; `now` is for people and records."""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What needs the time takes one of these."""

    def now(self) -> datetime:
        """Wall time in UTC."""

    def monotonic(self) -> float:
        """Seconds that never jump."""


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()
