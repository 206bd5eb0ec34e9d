"""`python -m tests.faults [--count N] [--seed SEED]`: break a platform N times, or play one round again.

The last line of stdout is one JSON object, as benchmarks print it.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from pathlib import Path

from tests.faults.platform import temporary_platform
from tests.faults.run import Drill
from tests.faults.schedule import ROUND

LEDGER = Path("build/faults/ledger.jsonl")


async def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--count", type=int, default=400, help="injections (default 400)")
    parser.add_argument("--seed", type=int, help="play this round again")
    parser.add_argument("--base", type=int, default=0, help="draws other rounds (default 0)")
    parser.add_argument("--give-up-after", type=int, default=1, help="rounds that went wrong (default 1)")
    arguments = parser.parse_args()
    rng = random.Random(arguments.base)
    rounds = max(1, round(arguments.count / ROUND))
    seeds = [arguments.seed] if arguments.seed is not None else [rng.getrandbits(32) for _ in range(rounds)]
    LEDGER.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    async with temporary_platform() as platform:
        print(
            f"home {platform.home}; small disks: {sorted(platform.disks) or 'none, not root'}",
            file=sys.stderr,
        )
        drill = Drill.of(platform, seeds[0], LEDGER)
        await drill.prepare()
        print(f"prepared after {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
        report = await drill.play(seeds, give_up_after=arguments.give_up_after)
        lost = [failed for _, failed in drill.load.predicted if failed]
        figures = {
            "injections": sum(report.injections.values()),
            "kinds": dict(report.injections),
            "missed": report.missed,
            "jobs": len(drill.load.jobs),
            "runs": len(drill.load.runs),
            "dataset_versions": len(drill.load.datasets),
            "predictions": len(drill.load.predicted),
            "predictions_refused": len(lost),
            "settle_seconds_max": round(max(report.settle_seconds, default=0), 1),
            "recovery_seconds": {
                target: {"n": len(took), "p50": round(statistics.median(took), 2), "max": round(max(took), 2)}
                for target, took in sorted(drill.breaker.recovered.items())
            },
            "took_seconds": round(time.monotonic() - began, 1),
        }
        violations = {"value": len(report.violations), "bar": 0, "ok": not report.violations}
        print(json.dumps({"bench": "faults", "figures": figures, "bars": {"violations": violations}}))
        if report.violations:
            print(*report.violations, sep="\n", file=sys.stderr)
            raise SystemExit(1)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
