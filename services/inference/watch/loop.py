"""What is done now and then: windows that are over become versions."""

import asyncio

from services.inference.watch.payloads import PayloadLogs

EVERY_SECONDS = 2.0


class Loop:
    """One round every few seconds."""

    def __init__(self, payloads: PayloadLogs) -> None:
        self._payloads = payloads

    async def run(self) -> None:
        """Go round until cancelled."""
        while True:
            await self._payloads.round()
            await asyncio.sleep(EVERY_SECONDS)
