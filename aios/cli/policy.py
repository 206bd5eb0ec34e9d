"""`aios policy`."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import click

from aios.cli import output
from aios.cli.output import Columns, Noun, age, common, connected, leaf
from aios.scheduler.v1 import policy_pb2

POLICY: Columns = {
    "ALGORITHM": lambda p: p.algorithm,
    "PREEMPTS EVERY": lambda p: f"{p.preempt_interval.ToTimedelta().total_seconds():g} s",
    "KEEPS ROOM FOR": lambda p: p.reservations,
    "USE COUNTS HALF AFTER": lambda p: (
        f"{p.usage_half_life.ToTimedelta().total_seconds() / 3600:g} h"
        if p.HasField("usage_half_life")
        else ""
    ),
    "SINCE": lambda p: age(p.update_time) if p.HasField("update_time") else "",
}


def chosen(command: Callable[..., Any]) -> Callable[..., Any]:
    """What a policy is made of, as arguments."""
    parts = (
        click.argument("algorithm", metavar="ALGORITHM"),
        click.option(
            "--preempt-interval", type=float, help="Seconds between two steps that stop jobs for others [60]."
        ),
        click.option("--reservations", type=int, default=0, help="Jobs that room is kept for [8]."),
        click.option(
            "--half-life",
            type=click.FloatRange(0),
            help="Hours after which what a queue used counts half under `fair` [only the present counts].",
        ),
        click.option(
            "--utility",
            default="log",
            help="What `utility` maximises for each job: log, linear, or a concave curve as TIME:WORTH,... up to 1:...",
        ),
    )
    for part in reversed(parts):
        command = part(command)
    return command


class Policies(Noun):
    """Without a verb the one in force."""

    without_a_verb = "get"


@click.group(cls=Policies)
def policy() -> None:
    """How the pool is shared.

    \b
    balanced          fair finishes, short waits and a full pool together
    fcfs              first come, first served
    sjf, srtf         least remaining device time; srtf stops others for it
    edf               earliest deadline
    priority          highest priority, with ageing
    fair              equal shares for queues, taken back from who has more
    las               least used so far
    proportional      devices in proportion to weight and priority
    utility           largest sum of utilities
    max-min, makespan, finish-time-fair, soonest
                      shares of time over types of accelerator
    dynamic           shortest first; elastic jobs resized by what they gain

    Under each of them small jobs pass a large one that waits only where they cannot delay it.
    """


@policy.command("get")
@common
def get_policy() -> None:
    """The policy in force."""
    with connected() as client:
        output.emit(client.jobs.policy(), POLICY)


@policy.command("set")
@chosen
@common
def set_policy(**given: Any) -> None:
    """Put another policy in force, from the next step on. Operators only."""
    with connected() as client:
        output.emit(client.jobs.set_policy(_policy(**given)), POLICY)


@policy.command("preview")
@chosen
@common
def preview_policy(**given: Any) -> None:
    """What another policy would start and stop now. Changes nothing. Operators only."""
    with connected() as client:
        found = client.jobs.preview_policy(_policy(**given))
        columns: Columns = {
            "STARTS": lambda p: " ".join(map(leaf, p.starts)) or "nothing",
            "STOPS": lambda p: " ".join(map(leaf, p.stops)) or "nothing",
        }
        output.emit(found, columns)


def _policy(
    algorithm: str, preempt_interval: float | None, reservations: int, half_life: float | None, utility: str
) -> policy_pb2.Policy:
    made = policy_pb2.Policy(algorithm=algorithm, reservations=reservations, utility=_points(utility))
    if preempt_interval is not None:
        made.preempt_interval.FromTimedelta(timedelta(seconds=preempt_interval))
    if half_life:
        made.usage_half_life.FromTimedelta(timedelta(hours=half_life))
    return made


def _points(text: str) -> list[policy_pb2.UtilityPoint]:
    if text == "log":
        return []
    try:
        pairs = [part.split(":") for part in ("1:1" if text == "linear" else text).split(",")]
        return [policy_pb2.UtilityPoint(time=float(time), worth=float(worth)) for time, worth in pairs]
    except ValueError:
        raise click.BadParameter(
            f"must be log, linear or like 0.5:0.8,1:1, not {text!r}", param_hint="--utility"
        ) from None
