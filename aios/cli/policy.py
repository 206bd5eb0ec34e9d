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
    )
    for part in reversed(parts):
        command = part(command)
    return command


class Policies(Noun):
    """Without a verb the one in force."""

    without_a_verb = "get"


@click.group(cls=Policies)
def policy() -> None:
    """How the pool is shared: fcfs, priority, fair, las.

    fcfs: first come, first served. priority: highest first, with ageing. fair: equal shares for projects, taken back
    from who has more. las: least attained service first. Under each of them small jobs pass a large one that waits
    only where they cannot delay it.
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
def set_policy(algorithm: str, preempt_interval: float | None, reservations: int) -> None:
    """Put another policy in force, from the next step on. Operators only."""
    with connected() as client:
        output.emit(client.jobs.set_policy(_policy(algorithm, preempt_interval, reservations)), POLICY)


@policy.command("preview")
@chosen
@common
def preview_policy(algorithm: str, preempt_interval: float | None, reservations: int) -> None:
    """What another policy would start and stop now. Changes nothing. Operators only."""
    with connected() as client:
        found = client.jobs.preview_policy(_policy(algorithm, preempt_interval, reservations))
        columns: Columns = {
            "STARTS": lambda p: " ".join(map(leaf, p.starts)) or "nothing",
            "STOPS": lambda p: " ".join(map(leaf, p.stops)) or "nothing",
        }
        output.emit(found, columns)


def _policy(algorithm: str, preempt_interval: float | None, reservations: int) -> policy_pb2.Policy:
    made = policy_pb2.Policy(algorithm=algorithm, reservations=reservations)
    if preempt_interval is not None:
        made.preempt_interval.FromTimedelta(timedelta(seconds=preempt_interval))
    return made
