"""Rounds of faults against one platform under load, and what is said of them."""

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from aios.errors import Unauthenticated
from tests.faults.breaks import Breaker, unable
from tests.faults.checks import Checker
from tests.faults.load import Load, cancelled
from tests.faults.platform import Platform
from tests.faults.schedule import Fault, Injection, schedule

RESUMED_SECONDS = 1.0
"""Of load before a round begins."""
LONG_SECONDS = 20.0
"""Until a platform is at rest: what it waited for is then said."""


@dataclass
class Report:
    """What was done and seen."""

    ledger: Path | None = None
    injections: Counter[str] = field(default_factory=Counter)
    missed: int = 0
    violations: list[str] = field(default_factory=list)
    settle_seconds: list[float] = field(default_factory=list)

    def note(self, seed: int, injection: Injection, outcome: str) -> None:
        """One line of the ledger."""
        if outcome:
            self.injections[f"{injection.fault} {injection.target}"] += 1
        else:
            self.missed += 1
        if self.ledger is not None:
            line = {
                "seed": seed,
                "fault": injection.fault,
                "target": injection.target,
                "moment": injection.moment,
                "seconds": injection.seconds,
                "outcome": outcome or "nothing to break",
            }
            with self.ledger.open("a") as file:
                file.write(json.dumps(line) + "\n")

    def verdict(self, seed: int, settled: float, waited: str, wrong: list[str]) -> None:
        """A round is over, `settled` seconds after its last fault; until then it waited for what is said."""
        self.settle_seconds.append(settled)
        self.violations += [f"seed {seed}: {each}" for each in wrong]
        if self.ledger is not None:
            line = {"seed": seed, "settled": round(settled, 2), "waited": waited, "violations": wrong}
            with self.ledger.open("a") as file:
                file.write(json.dumps(line) + "\n")


@dataclass
class Drill:
    """A platform under load that is broken round by round."""

    platform: Platform
    load: Load
    breaker: Breaker
    checker: Checker
    report: Report

    @classmethod
    def of(cls, platform: Platform, seed: int, ledger: Path | None = None) -> "Drill":
        load, breaker = Load(platform, random.Random(seed)), Breaker(platform)
        return cls(platform, load, breaker, Checker(platform, load, breaker), Report(ledger))

    async def prepare(self) -> None:
        """Have a served model to break, too."""
        async with self.platform.client() as client:
            await self.load.serve(client)

    async def play(self, seeds: Iterable[int], *, count: int = 0, give_up_after: int = 1) -> Report:
        """One round per seed, each followed by a full check, until so many faults were made.

        Args:
            count: Faults; those that found nothing to break are not counted. 0: as many as the seeds give.
            give_up_after: Rounds that went wrong.
        """
        working = asyncio.create_task(self.load.run())
        bad = 0
        try:
            for seed in seeds:
                wrong = await self._round(seed)
                bad += bool(wrong)
                if working.done():
                    working.result()
                if bad >= give_up_after or 0 < count <= self.report.injections.total():
                    break
            self.load.submitting.clear()
            if not bad and self.load.serves:
                self.report.violations += await self.checker.check_runs()
        finally:
            await cancelled(working)
        return self.report

    async def _round(self, seed: int) -> list[str]:
        self.load.submitting.set()
        await asyncio.sleep(RESUMED_SECONDS)
        began = time.monotonic()
        # A fault that outlives the wait for its moment is waited for too: what is left broken is a fault of ours.
        async with asyncio.TaskGroup() as tasks:
            for injection in schedule(seed, frozenset(Fault) - unable(self.platform).keys()):
                await asyncio.sleep(max(0.0, began + injection.moment - time.monotonic()))
                tasks.create_task(self._inject(seed, injection))
        self.load.submitting.clear()
        settled, waited, wrong = 0.0, "", []
        try:
            await self.breaker.settled()
            settled, waited = await self.checker.settle()
            wrong = await self.checker.check()
        except AssertionError as error:
            wrong = [str(error)]
        self.load.excused.clear()
        self.report.verdict(seed, settled, waited, wrong)
        count = self.report.injections.total()
        print(
            f"seed {seed}: {count} injections, settled in {settled:.1f} s, "
            f"{len(self.load.jobs)} jobs, {len(self.load.runs)} runs, {len(wrong)} violations",
            *([f"waited: {waited}"] if settled > LONG_SECONDS else []),
            *wrong,
            sep="\n    ",
            file=sys.stderr,
            flush=True,
        )
        return wrong

    async def _inject(self, seed: int, injection: Injection) -> None:
        if injection.fault is Fault.CLOCK:
            # Whoever has the wrong time takes good tokens for old or not yet valid ones.
            self.load.excused.add(Unauthenticated)
        with suppress(ProcessLookupError):
            self.report.note(seed, injection, await self.breaker.inject(injection))
