"""`python -m tests.faults [--count N] [--seed SEED]`: break a platform N times, or play one round again.

Each injection is a line of the ledger. The last line of stdout is one JSON object, as benchmarks print it.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from tests.faults import recoveries
from tests.faults.breaks import unable
from tests.faults.platform import temporary_platform
from tests.faults.run import Drill

LEDGER = Path("build/faults/ledger.jsonl")
CALM_REPEATS = 2


async def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--count", type=int, default=400, help="injections (default 400)")
    parser.add_argument("--seed", type=int, help="play this round again")
    parser.add_argument("--base", type=int, default=0, help="draws other rounds (default 0)")
    parser.add_argument("--give-up-after", type=int, default=1, help="rounds that went wrong (default 1)")
    arguments = parser.parse_args()
    rng = random.Random(arguments.base)
    again: int | None = arguments.seed
    seeds = iter(lambda: rng.getrandbits(32), None) if again is None else iter([again])
    LEDGER.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    async with temporary_platform() as platform:
        say(f"the platform is in {platform.home}")
        for fault, reason in unable(platform).items():
            say(f"no fault `{fault}`: {reason}")
        drill = Drill.of(platform, arguments.base if again is None else again, LEDGER)
        await drill.prepare()
        say(f"prepared after {time.monotonic() - began:.1f} s")
        calm = await in_calm(drill) if again is None else {}
        report = await drill.play(seeds, count=arguments.count, give_up_after=arguments.give_up_after)
        figures: dict[str, Any] = {
            "injections": sum(report.injections.values()),
            "kinds": dict(sorted(report.injections.items())),
            "missed": report.missed,
            "jobs": len(drill.load.jobs),
            "runs": len(drill.load.runs),
            "dataset_versions": len(drill.load.datasets),
            "predictions": len(drill.load.predicted),
            "predictions_refused": sum(bool(failed) for _, failed in drill.load.predicted),
            "settle_seconds": spread(report.settle_seconds),
            "recovery_seconds": {
                target: spread(took) for target, took in sorted(drill.breaker.recovered.items())
            },
            "took_seconds": round(time.monotonic() - began, 1),
        }
        bars = {**calm, "violations": bar(len(report.violations), 0)}
        print(json.dumps({"bench": "faults", "figures": figures, "bars": bars}), flush=True)
        if report.violations:
            print(*report.violations, sep="\n", file=sys.stderr)
            raise SystemExit(1)


async def in_calm(drill: Drill) -> dict[str, Any]:
    """The promised recoveries, each the worst of a few."""
    worst = {}
    async with drill.platform.client() as client:
        for name, measure, at_most in (
            ("scheduler_killed_seconds", recoveries.scheduler_killed, recoveries.SCHEDULER_SECONDS),
            ("agent_killed_seconds", recoveries.agent_killed, recoveries.AGENT_SECONDS),
            ("node_lost_seconds", recoveries.node_lost, recoveries.NODE_SECONDS),
        ):
            took = [await measure(drill.platform, client) for _ in range(CALM_REPEATS)]
            say(f"{name}: {', '.join(f'{each:.2f}' for each in took)}")
            worst[name] = bar(round(max(took), 2), at_most)
    return worst


def bar(value: float, at_most: float) -> dict[str, Any]:
    return {"value": value, "bar": at_most, "ok": value <= at_most}


def spread(took: list[float]) -> dict[str, float]:
    if not took:
        return {"n": 0}
    return {"n": len(took), "p50": round(statistics.median(took), 2), "max": round(max(took), 2)}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
