"""What is done now and then: windows that are over become versions, what was accepted becomes jobs."""

import asyncio

from services.inference.watch.explanations import Explanations
from services.inference.watch.payloads import PayloadLogs

EVERY_SECONDS = 1.0


class Loop:
    """One round every few seconds."""

    def __init__(self, payloads: PayloadLogs, explanations: Explanations) -> None:
        self._payloads = payloads
        self._explanations = explanations

    async def run(self) -> None:
        """Go round until cancelled."""
        while True:
            await self._payloads.round()
            await self._explanations.round()
            await asyncio.sleep(EVERY_SECONDS)
