"""`aios top`: the pool as it is now, and again every other second."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from aios.cli import bars, output, top_deployments
from aios.cli.job import where
from aios.cli.output import age, common, connected, leaf, short, span, state

if TYPE_CHECKING:
    from rich.console import Group

ROWS_MAX = 20
"""Jobs of each kind that are shown: more do not fit on a screen."""
WARM, HOT = 0.7, 0.95


@dataclass(frozen=True)
class Pool:
    """What one look found: messages as they came."""

    nodes: list[Any]
    queues: list[Any]
    jobs: list[Any]
    """Those that have not ended, newest first."""
    policy: Any

    def data(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "policy": output.to_data(self.policy),
            "nodes": [output.to_data(each) for each in self.nodes],
            "queues": [output.to_data(each) for each in self.queues],
            "jobs": [output.to_data(each) for each in self.jobs],
        }


@click.command()
@click.argument("what", type=click.Choice(["pool", "deployments"]), default="pool")
@click.option("--once", is_flag=True, help="Look once and end.")
@click.option(
    "--every", type=click.FloatRange(0.2), default=2.0, show_default=True, help="Seconds between two looks."
)
@common
def top(what: str, once: bool, every: float) -> None:
    """The pool now: nodes and how full they are, queues, and jobs with their progress or what they wait for.

    `aios top deployments` shows what each revision answers: how many, how fast, how many failed.
    """
    look, data, page = _VIEWS[what]
    with connected() as client:
        if output.shared().output != "table":
            output.emit_data(data(look(client)), [])
            return
        console = output.console()
        if once or not console.is_terminal:
            console.print(page(look(client)))
            return
        from rich.live import Live

        with Live(page(look(client)), console=console, screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(every)
                live.update(page(look(client)), refresh=True)


def _look(client: Any) -> Pool:
    from aios.scheduler.v1 import job_pb2

    job = job_pb2.Job
    live = (job.STATE_QUEUED, job.STATE_STARTING, job.STATE_RUNNING, job.STATE_STOPPING)
    return Pool(
        list(client.jobs.nodes()),
        list(client.queues.list()),
        list(client.jobs.list(500, live)),
        client.jobs.policy(),
    )


def _page(pool: Pool) -> "Group":
    from rich.console import Group

    waiting = [each for each in pool.jobs if state(each) == "queued"]
    holding = [each for each in pool.jobs if state(each) != "queued"]
    tables = [
        _table(("NODE", "STATE", "RESOURCE", "", "USED", "OF", "HEARD"), nodes(pool.nodes)),
        _table(("QUEUE", "RUNNING", "WAITING", "USES", "", "WAITS FOR"), _queues(pool.queues)),
        _table(
            ("RUNNING", "STATE", "NODE", "HAS", "PROGRESS", "", "LEFT", "AGE"), _running(holding[:ROWS_MAX])
        ),
        _table(("WAITING", "ASKS FOR", "AGE", "WHY"), _waiting(waiting[:ROWS_MAX])),
    ]
    head = f"{pool.policy.algorithm}: {len(holding)} of your jobs run, {len(waiting)} wait"
    return Group(head, "", *(part for table in tables if table.row_count for part in (table, "")))


def nodes(found: list[Any]) -> Iterator[tuple[str, ...]]:
    """A line for each node and resource."""
    for node in found:
        capacity, used = bars.named(node.capacity), bars.named(node.allocated)
        for number, (name, whole) in enumerate(capacity.items()):
            head = (leaf(node.name), state(node)) if number == 0 else ("", "")
            heard = age(node.heartbeat_time) if number == 0 else ""
            part = used.get(name, 0) / max(1, whole)
            figures = bars.figure(name, used.get(name, 0)), bars.figure(name, whole)
            yield *head, name, bars.bar(part), *figures, heard


def _queues(found: list[Any]) -> Iterator[tuple[str, ...]]:
    for queue in found:
        usage = queue.usage
        if usage.running_jobs or usage.pending_jobs:
            jobs = str(usage.running_jobs), str(usage.pending_jobs)
            yield (
                leaf(queue.name),
                *jobs,
                bars.listed(bars.named(usage.used)),
                bars.bar(usage.share),
                bars.listed(bars.named(usage.pending)),
            )


def _running(found: list[Any]) -> Iterator[tuple[str, ...]]:
    for job in found:
        has = bars.listed(bars.named(job.spec.resources))
        if job.attempt.replicas:
            has = f"{len(job.attempt.replicas)} x {has}"
        yield (
            short(job.spec.owner) or leaf(job.name),
            state(job),
            where(job.attempt),
            has,
            *_progress(job.progress),
            age(job.create_time),
        )


def _progress(said: Any) -> tuple[str, str, str]:
    """A bar, steps, and the time that is left at the speed it has."""
    if not said.total_steps:
        return "", f"step {said.step}" if said.step else "", ""
    rest = said.total_steps - said.step
    left = span(rest / said.steps_per_second) if said.steps_per_second else ""
    return bars.bar(said.step / said.total_steps), f"{said.step}/{said.total_steps}", left


def _waiting(found: list[Any]) -> Iterator[tuple[str, ...]]:
    for job in found:
        asks = bars.listed(bars.named(job.spec.resources))
        yield short(job.spec.owner) or leaf(job.name), asks, age(job.create_time), job.state_message


def _table(headings: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for heading in headings:
        made.add_column(heading, overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell, style=_colour(cell)) for cell in row))
    return made


def _colour(cell: str) -> str:
    """Of a bar, by how full it is; of anything else none."""
    if not cell or set(cell) - set(bars.CELLS) or cell[-1] not in bars.CELLS:
        return ""
    part = cell.count("█") / len(cell)
    return "red" if part >= HOT else "yellow" if part >= WARM else "green"


_VIEWS: Mapping[str, tuple[Callable[[Any], Any], Callable[[Any], Any], Callable[[Any], Any]]] = {
    "pool": (_look, Pool.data, _page),
    "deployments": (top_deployments.look, top_deployments.data, top_deployments.page),
}
"""How to look, and what was seen for programs and for people."""
