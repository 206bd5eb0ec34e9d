"""`python -m services.scheduler.simulate --trace FILE --cluster SPEC --policy NAME ...`: the engine over a trace."""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import get_args

from services.scheduler.engine.model import Node
from services.scheduler.simulate import cluster, metrics, report, traces
from services.scheduler.simulate.panels import panels
from services.scheduler.simulate.policies import POLICIES, ROUND_SECONDS
from services.scheduler.simulate.report import Result
from services.scheduler.simulate.traces import TraceInvalid, TraceJob
from services.scheduler.simulate.world import Knows, Rules, Stuck, World


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate, print one JSON object, and write the report where it was asked for."""
    asked = _parser().parse_args(arguments)
    try:
        results = list(_results(asked))
    except (TraceInvalid, Stuck, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    if asked.report:
        jobs = results[0].outcome.jobs
        title = f"{asked.trace.name} on {asked.cluster}"
        gpus = cluster.devices(results[0].outcome.nodes)
        of = "accelerators" if cluster.counted(results[0].outcome.nodes) == "gpu" else "processors"
        subtitle = f"{len(jobs):,} jobs, {gpus:,g} {of}; the production scheduler, simulated"
        asked.report.write_text(report.page(title, subtitle, results))
    if asked.panels:
        asked.panels.write_text(panels(results))
    answer = {
        "trace": str(asked.trace),
        "cluster": asked.cluster,
        "recommended": report.recommended(results).name,
        "policies": {result.name: asdict(result.figures) for result in results},
    }
    print(json.dumps(answer))
    return 0


def _results(asked: argparse.Namespace) -> "list[Result]":
    jobs = traces.read(asked.trace)[: asked.limit or None]
    if asked.elastic is not None:
        jobs = traces.elastic(jobs, asked.elastic)
    others = {name for job in jobs for name in job.replica if not name.startswith("gpu")}
    nodes = cluster.parse(asked.cluster, sorted(others))
    names = POLICIES if "all" in asked.policy else dict.fromkeys(asked.policy)
    return [_simulated(name, jobs, nodes, asked) for name in names]


def _simulated(
    name: str, jobs: Sequence[TraceJob], nodes: Sequence[Node], asked: argparse.Namespace
) -> Result:
    choice = POLICIES[name]
    seconds = asked.round if choice.preempts else 0.0
    rules = Rules(
        seconds,
        every=asked.every,
        restart=asked.restart,
        knows=asked.knows,
        error=asked.error,
        seed=asked.seed,
    )
    began = time.monotonic()
    outcome = World(jobs, nodes, choice.make(seconds), rules).run()
    took = time.monotonic() - began
    rate = len(jobs) / max(took, 1e-6)
    print(f"{name}: {len(jobs):,} jobs in {took:.1f} s ({rate:,.0f} a second)", file=sys.stderr)
    return Result(name, choice.line, outcome, metrics.figures(outcome))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="simulate", description="Run the scheduler over a trace.")
    parser.add_argument("--trace", type=Path, required=True)
    parser.add_argument("--cluster", required=True, help="NODESxGPUS[:TYPE], with commas between parts")
    parser.add_argument("--policy", action="append", choices=[*POLICIES, "all"], required=True)
    parser.add_argument("--round", type=_positive, default=ROUND_SECONDS, help="seconds between preemptions")
    parser.add_argument("--restart", type=_not_negative, default=30.0, help="seconds that a start costs")
    parser.add_argument("--every", type=_not_negative, default=0.0, help="seconds between two plans at least")
    parser.add_argument("--knows", choices=get_args(Knows), default="steps")
    parser.add_argument(
        "--error", type=_positive, default=1.0, help="what is told is wrong by up to this factor"
    )
    parser.add_argument(
        "--elastic", type=_not_negative, help="jobs may run smaller; what each replica costs every other"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=0, help="only the first jobs")
    parser.add_argument("--report", type=Path, help="where to write the HTML report")
    parser.add_argument("--panels", type=Path, help="where to write a picture of who ran when, as SVG")
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError("must not be below 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
