"""`aios simulate`: the production scheduler over a trace. The simulation is a program of its own; this shows its answer."""

import importlib.util
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import click

from aios.cli import bars, output
from aios.cli.output import common, connected, state

POLICIES = ("fcfs", "srtf", "las", "balanced")
"""Compared where none is named."""
MODULE = "services.scheduler.simulate"
HEADINGS = (
    "POLICY",
    "MEAN",
    "P99",
    "LAST END",
    "MEAN WAIT",
    "MAX WAIT",
    "MAX RHO",
    "UNFAIR",
    "IN USE",
    "RESTARTS",
)


@click.command()
@click.option(
    "--trace",
    "-t",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="History to replay: .trace (Gavel, Shockwave), .jsonl (exported history), .csv with arrival, duration, gpus, queue; may be .gz.",
)
@click.option(
    "--cluster",
    "-c",
    help="NODESxGPUS[:TYPE][/cpu=CORES][/memory=64GiB], such as 60x8 or 8x4:h100,2x8:a100; the pool as it is otherwise.",
)
@click.option(
    "--policy",
    "-P",
    "policies",
    multiple=True,
    default=POLICIES,
    show_default=True,
    help="Policy to try; repeat it, or `all`.",
)
@click.option("--round", "seconds", type=float, help="Seconds between two steps that may preempt.")
@click.option(
    "--every", type=float, help="Seconds between two plans at least: 60 makes long histories quick."
)
@click.option("--restart", type=float, help="Seconds of its devices that a start costs a job.")
@click.option(
    "--knows",
    type=click.Choice(["steps", "estimate", "nothing"]),
    help="What the scheduler knows of a job: its steps and its speed, how long it is said to take, or neither.",
)
@click.option("--error", type=float, help="What it knows is wrong by up to this factor, either way.")
@click.option(
    "--elastic",
    type=float,
    help="Jobs may run with fewer GPUs than they ask for; 0.05: each replica costs every other a twentieth.",
)
@click.option("--seed", type=int, help="Of the errors.")
@click.option("--limit", type=int, help="Only the first so many jobs.")
@click.option(
    "--report", type=click.Path(dir_okay=False, path_type=Path), help="Write an HTML page with charts there."
)
@common
def simulate(
    trace: Path,
    cluster: str | None,
    policies: tuple[str, ...],
    seconds: float | None,
    every: float | None,
    restart: float | None,
    knows: str | None,
    error: float | None,
    elastic: float | None,
    seed: int | None,
    limit: int | None,
    report: Path | None,
) -> int | None:
    """Try policies on a history: waits, ends, fairness and use of the pool, and which policy suits it best."""
    if importlib.util.find_spec(MODULE.partition(".")[0]) is None:
        raise click.ClickException(
            "The simulator comes with the scheduler: install aios-platform[scheduler]."
        )
    given = {
        "round": seconds,
        "every": every,
        "restart": restart,
        "knows": knows,
        "error": error,
        "elastic": elastic,
        "seed": seed,
        "limit": limit,
        "report": report,
    }
    cluster = cluster or _pool()
    command = [sys.executable, "-m", MODULE, "--trace", str(trace), "--cluster", cluster]
    for policy in policies:
        command += ["--policy", policy]
    for name, value in given.items():
        if value is not None:
            command += [f"--{name}", str(value)]
    # Its progress and its errors go to stderr as they come.
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        return done.returncode
    answer = json.loads(done.stdout)
    output.emit_data(answer, [_row(name, found) for name, found in answer["policies"].items()], HEADINGS)
    if len(answer["policies"]) > 1:
        best = answer["recommended"]
        output.notice(
            f"{best} suits this history best on {cluster}: `aios policy preview {best}`, `aios policy set {best}`."
        )
    if report is not None:
        output.notice(f"Charts: {report}")
    return None


def _pool() -> str:
    """The nodes that are ready now, as a specification."""
    with connected() as client:
        found = Counter(_part(node) for node in client.jobs.nodes() if state(node) == "ready")
    if not found:
        raise click.UsageError("No node is ready: say --cluster.")
    return ",".join(part.replace("1x", f"{count}x", 1) for part, count in sorted(found.items()))


def _part(node: Any) -> str:
    has = bars.named(node.capacity)
    kind = next((name for name in has if name == "gpu" or name.startswith("gpu/")), "")
    _, slash, model = kind.partition("/")
    return f"1x{has.get(kind, 0)}{':' if slash else ''}{model}/cpu={has.get('cpu', 0) / 1000:g}/memory={has.get('memory', 0)}"


def _row(name: str, found: dict[str, Any]) -> tuple[str, ...]:
    times = ("jct_mean", "jct_p99", "makespan", "wait_mean", "wait_max")
    return (
        name,
        *(f"{found[key]:,.0f} s" for key in times),
        f"{found['rho_max']:.2f}",
        f"{found['unfair']:.1%}",
        f"{found['utilisation']:.1%}",
        f"{found['restarts']:,}",
    )
