"""What is done now and then: windows that are over become versions, what was accepted becomes jobs, rules are looked at."""

import asyncio

from services.inference.watch.alerts import Alerts
from services.inference.watch.drift import DriftReports
from services.inference.watch.explanations import Explanations
from services.inference.watch.payloads import PayloadLogs

EVERY_SECONDS = 1.0


class Loop:
    """One round every few seconds."""

    def __init__(
        self, payloads: PayloadLogs, explanations: Explanations, drift: DriftReports, alerts: Alerts
    ) -> None:
        self._rounds = (payloads.round, explanations.round, drift.round, alerts.round)

    async def run(self) -> None:
        """Go round until cancelled."""
        while True:
            for each in self._rounds:
                await each()
            await asyncio.sleep(EVERY_SECONDS)
