"""`aios job explain` and `aios explain`: why a job is where it is, until when, and what would change that."""

from datetime import UTC, datetime
from typing import Any

import click

from aios.cli import bars, output
from aios.cli import watch as watching
from aios.cli.output import Noun, common, connected, leaf, short

BASES = {
    "PROGRESS": "by the speed that is seen",
    "TOLD": "by their steps and the speed they should have",
    "ESTIMATE": "by what submitters expect",
    "HISTORY": "by how long earlier jobs took",
}


@click.group(cls=Noun)
def explain() -> None:
    """Why something is as it is."""


@click.command("job")
@click.argument("name")
@common
def explain_job(name: str) -> None:
    """Why a job is where it is: what it waits for, who holds that, until when, and what would start it sooner."""
    with connected() as client:
        found = client.jobs.explain(name)
    output.emit_data(output.to_data(found), list(lines(found)))


explain.add_command(explain_job)
explain.add_command(watching.explain_prediction)
explain.add_command(watching.list_explanations)


def lines(found: Any) -> list[tuple[str, str]]:
    """An explanation as headings with text."""
    rows = [("job", short(found.job)), ("why", found.message), ("code", found.reason)]
    for number, holder in enumerate(found.holders):
        rows.append(("held by" if number == 0 else "", _holder(holder)))
    if found.HasField("prediction"):
        rows.append(("starts", _prediction(found.prediction)))
    elif found.unpredicted:
        rows.append(("starts", found.unpredicted))
    for number, other in enumerate(found.alternatives):
        rows.append(("sooner" if number == 0 else "", other.message))
    been = [
        f"{count} {text}"
        for count, text in (
            (found.attempts, "attempts"),
            (found.preemptions, "stopped for others"),
            (found.losses, "lost with their node"),
            (found.failures, "failed"),
        )
        if count
    ]
    return [*rows, ("so far", ", ".join(been))] if been else rows


def _holder(holder: Any) -> str:
    held = bars.listed(bars.named(holder.held))
    if not holder.job:
        return f"others ({holder.jobs} jobs): {held}"
    ends = f", expected to end {clock(holder.end_time)}" if holder.HasField("end_time") else ""
    return f"{leaf(holder.job)}: {held}{ends}"


def _prediction(said: Any) -> str:
    latest = clock(said.latest_time) if said.HasField("latest_time") else "nobody knows when"
    basis = BASES.get(said.basis, said.basis)
    return f"about {clock(said.start_time)}, likely between {clock(said.earliest_time)} and {latest}; {basis}"


def clock(stamp: Any) -> str:
    """A moment as people of this machine read it, and how far ahead it is."""
    moment = stamp.ToDatetime(tzinfo=UTC)
    ahead = (moment - datetime.now(UTC)).total_seconds()
    local = moment.astimezone()
    day = "" if abs(ahead) < 43_200 else f"{local:%a %d %b} "
    return f"{day}{local:%H:%M}" + (f" (in {output.span(ahead)})" if ahead > 0 else "")
