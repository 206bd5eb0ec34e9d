"""While a service refuses calls it has few under way, and most of the others are refused before they cost anything.

The door lets many calls into a service (`limits.CALLS_AT_ONCE`), so that a burst, or what a restart held up, only
waits. Once that is full something is refused in any case, and whoever still gets in would wait for all those before:
from then on only as many are let in as keep the service busy, and each is answered as fast as on a quiet day.

A refusal where the upstream is chosen costs Envoy half of what passing a call on does. So the share of the calls that
will find no place, known from the last moment, is drawn by lot right after the token's check, at half of that cost.

Sources: E. Nygren and others, "Handling Overload", Site Reliability Engineering, ch. 21 (a share that is drawn, from
what was accepted of what was asked); K. Nichols and V. Jacobson, "Controlling Queue Delay", ACM Queue 10(5), 2012 (a
queue that empties is good, one that stands is not).
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from gateway.envoy import limits
from gateway.envoy.admin import Admin, EnvoyDown, Taken
from gateway.envoy.routes import LIMITED, refusal_key

EVERY_SECONDS = 0.25
REFUSED_MIN = 0.1
"""Of the calls that came as far as the service: fewer refused are no overload."""
SURPLUS = 1.75
"""Let through to the service, per call that it took: so it never waits for work, and more that it could do is seen."""
PASSED_MIN = 0.01
TRACED_MAX = 0.01
"""Share of all calls while any are refused: a span of each refusal would take the services' time from those answered."""


@dataclass(frozen=True)
class Shed:
    """What is refused of the calls for one service."""

    busy: bool = False
    """Few are let in."""
    passed: float = 1.0
    """Share of the calls that is not refused by lot."""

    def next(self, done: int, asked: int, refused: int) -> "Shed":
        """After a moment in which so many calls were answered, came as far as the service, and found no place."""
        if refused and refused >= REFUSED_MIN * asked:
            return Shed(True, min(max(self.passed * SURPLUS * done / asked, PASSED_MIN), 1.0))
        return Shed(self.passed < 1, min(2 * self.passed, 1.0))

    def settings(self, service: str) -> Mapping[str, str]:
        """Envoy's, for this."""
        at_once = limits.CALLS_AT_ONCE_BUSY if self.busy else limits.CALLS_AT_ONCE
        return {
            f"circuit_breakers.{service}.default.max_requests": str(at_once),
            refusal_key(service): f"{(1 - self.passed) * 100:.0f}",
        }


class Shedder:
    """Looks at what Envoy takes and refuses, and tells it what to refuse next."""

    def __init__(self, admin: Admin) -> None:
        self._admin = admin
        self._counts: dict[str, Taken] = {}
        self.shed = dict.fromkeys(LIMITED, Shed())

    @property
    def traced_max(self) -> float:
        """Share of the calls that may be traced now."""
        return TRACED_MAX if any(each.busy for each in self.shed.values()) else 1.0

    async def run(self) -> None:
        """Until cancelled."""
        with suppress(EnvoyDown):
            await self._tell(LIMITED)  # whatever a former process told it
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            with suppress(EnvoyDown):
                await self.look()

    async def look(self) -> None:
        """Once. Raises EnvoyDown."""
        before, self._counts = self._counts, await self._admin.taken()
        changed = []
        for service, now in self._counts.items():
            last = before.get(service, now)
            if now.ended < last.ended:  # Envoy restarted, and counts anew
                last = Taken(0, 0, 0)
            refused = now.refused - last.refused
            asked = now.taken - last.taken + refused
            former = self.shed[service]
            self.shed[service] = former.next(now.ended - last.ended - refused, asked, refused)
            if former.busy or self.shed[service].busy:
                changed.append(service)
        await self._tell(changed)

    async def _tell(self, services: "list[str] | tuple[str, ...]") -> None:
        settings = {key: value for each in services for key, value in self.shed[each].settings(each).items()}
        if settings:
            await self._admin.modify(settings)
