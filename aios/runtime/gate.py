"""How many calls a process works on at a time, and who goes first: what keeps it useful when too much is asked.

A process of ours computes one thing at a time. Working on more calls at once makes none faster, only all of them
later; so a few are worked on, which keeps the processor and the disk busy together, and the others wait. The newest
goes first: its caller still waits for it, and its answer takes no longer than on a quiet day. Under a short burst the
older ones follow a moment later; under a lasting one they are refused, having cost nothing yet. Who waits at all is
bounded at the door, where a refusal costs a tenth (`gateway.envoy.limits.CALLS_AT_ONCE`).

Source: the adaptive LIFO of B. Maurer, "Fail at Scale", ACM Queue 13(8), 2015; a limit on concurrency, unlike one on
rate, needs no figure for how fast the machine is (Little's law: time in the system = calls in it / calls per second).
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar

from aios.errors import ResourceExhausted
from aios.runtime.status import RETRY_SOON

WORKED_ON_MAX = 4
"""Two would do for calls that compute; the others wait for the disk meanwhile, which takes many writes at once."""
WAIT_SECONDS_MAX = 8.0
"""Less than clients wait by themselves (10 s): time enough for a burst, for what was held while the service was away, and
for those that are worked on to see a store that restarts answer again."""
WAITING_MAX = 512
"""Whatever the door lets through."""

_held: ContextVar["Gate | None"] = ContextVar("held_gate", default=None)


class Overloaded(ResourceExhausted):
    """More is asked than can be done. Nothing was done of this call."""

    reason = "OVERLOADED"

    def __init__(self) -> None:
        super().__init__("Too much is asked of the platform now: try again shortly.", retry_after=RETRY_SOON)


class Gate:
    """Lets calls in.

    Args:
        lends: A call's place is free while it waits for another process (`aside`).
    """

    def __init__(self, worked_on_max: int = WORKED_ON_MAX, *, lends: bool = True) -> None:
        self._free = worked_on_max
        self._lends = lends
        self._waiting: list[asyncio.Future[None]] = []

    @asynccontextmanager
    async def inside(self) -> AsyncIterator[None]:
        """Work on one call.

        Raises:
            Overloaded: newer calls took its place until it had waited for WAIT_SECONDS_MAX.
        """
        if self._free > 0 and not self._waiting:
            self._free -= 1
        else:
            await self._wait()
        token = _held.set(self if self._lends else None)
        try:
            yield
        finally:
            _held.reset(token)
            self._leave()

    async def _wait(self) -> None:
        if len(self._waiting) >= WAITING_MAX:
            raise Overloaded
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(WAIT_SECONDS_MAX):
                await turn
        except (TimeoutError, asyncio.CancelledError) as end:
            if turn in self._waiting:
                self._waiting.remove(turn)
            if not turn.cancelled():
                self._leave()  # its turn came in the same moment
            if isinstance(end, TimeoutError):
                raise Overloaded from None
            raise

    def _leave(self) -> None:
        self._free += 1
        while self._waiting and self._free > 0:
            newest = self._waiting.pop()
            if not newest.cancelled():  # its caller has given up in this moment
                self._free -= 1
                newest.set_result(None)

    @contextmanager
    def _aside(self) -> Iterator[None]:
        self._leave()
        try:
            yield
        finally:
            self._free -= 1  # goes on at once, even if one more is worked on for a moment


@contextmanager
def aside() -> Iterator[None]:
    """While the call under way waits for another process, which may be away: it holds up nobody here."""
    held = _held.get()
    if held is None:
        yield
    else:
        with held._aside():
            yield
