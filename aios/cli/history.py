"""`aios history`: what became of jobs, for `aios simulate` and for spreadsheets."""

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

import click

from aios.cli import bars, output
from aios.cli.output import Noun, common, connected, leaf, state
from aios.scheduling import is_device

COLUMNS = (
    "name", "owner", "queue", "state", "arrival", "end", "duration", "wait", "gpus", "type", "cpu", "memory", "priority",
    "weight", "attempts", "preemptions",
)  # fmt: skip
"""Of the table; the first moment is that of the first arrival, all times are seconds."""
PREEMPTED = "PREEMPTED"


@click.group(cls=Noun)
def history() -> None:
    """What became of jobs: when they came, ran and ended, on what, and how often they were stopped."""


@history.command("export")
@click.option(
    "--format", "form", type=click.Choice(["jsonl", "csv"]), help="By the name of the file; jsonl else."
)
@click.option(
    "--to", "target", type=click.Path(dir_okay=False, path_type=Path), help="File to write; stdout else."
)
@click.option("--days", type=click.FloatRange(0), help="Only jobs that came in the last so many days.")
@click.option("--all-projects", is_flag=True, help="Of the whole pool. Operators only.")
@common
def export(form: str | None, target: Path | None, days: float | None, all_projects: bool) -> None:
    """Write the history of jobs, oldest first: what `aios simulate --trace FILE` replays. No commands, no environment."""
    since = datetime.now(UTC) - timedelta(days=days) if days is not None else None
    form = form or ("csv" if target is not None and target.suffix == ".csv" else "jsonl")
    with connected() as client, _opened(target) as file:
        entries = map(entry, client.jobs.history(since=since, everywhere=all_projects))
        count = (_write_table if form == "csv" else _write_lines)(entries, file)
    if target is not None:
        output.notice(f"{count} jobs in {target}. Try policies on them: aios simulate --trace {target}")


def entry(job: Any) -> dict[str, Any]:
    """One job, as the simulator reads it. Times in seconds since 1970."""
    runs = [
        [_seconds(each.assign_time), _seconds(each.end_time)]
        for each in job.attempts
        if each.HasField("assign_time") and each.HasField("end_time")
    ]
    kinds = [kind for kind in bars.named(job.granted) if is_device(kind)]
    return {
        "name": job.job.removeprefix("projects/").replace("/jobs/", "/"),
        "owner": job.owner,
        "queue": leaf(job.queue),
        "state": state(job),
        "service": job.kind == 2,
        "submit": _seconds(job.create_time),
        "runs": runs,
        "end": _seconds(job.end_time) if job.HasField("end_time") and runs else None,
        "replica": bars.named(job.resources),
        "replicas": job.replicas or 1,
        "kind": kinds[0] if kinds else "",
        "work": job.total_steps,
        "priority": job.priority,
        "weight": job.weight or 1.0,
        "attempts": len(job.attempts),
        "preemptions": sum(each.end_reason == PREEMPTED for each in job.attempts),
    }


def row(found: Mapping[str, Any], first: float) -> dict[str, Any]:
    """The same in one row of a table, which knows one stretch of running."""
    ran = sum(stop - start for start, stop in found["runs"])
    types = [name for name in found["replica"] if is_device(name)]
    end = found["end"] if found["end"] is not None else None
    return {
        **{name: found[name] for name in ("name", "owner", "queue", "state", "priority", "weight")},
        **{name: found[name] for name in ("attempts", "preemptions")},
        "arrival": round(found["submit"] - first, 3),
        "end": round(end - first, 3) if end is not None else "",
        "duration": round(ran, 3),
        "wait": round(end - found["submit"] - ran, 3) if end is not None else "",
        "gpus": found["replicas"] * sum(found["replica"][name] for name in types),
        "type": types[0] if types else "",
        "cpu": found["replicas"] * found["replica"].get("cpu", 0) or "",
        "memory": found["replicas"] * found["replica"].get("memory", 0) or "",
    }


def _write_lines(entries: Iterable[Mapping[str, Any]], file: IO[str]) -> int:
    count = 0
    for found in entries:
        file.write(json.dumps(found) + "\n")
        count += 1
    return count


def _write_table(entries: Iterable[Mapping[str, Any]], file: IO[str]) -> int:
    """Jobs that ended; a table has no way to say that one has not."""
    made = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    made.writeheader()
    first, count = None, 0
    for found in entries:
        if found["end"] is None or found["service"]:
            continue
        first = found["submit"] if first is None else first
        made.writerow(row(found, first))
        count += 1
    return count


@contextmanager
def _opened(target: Path | None) -> Iterator[IO[str]]:
    if target is None:
        yield sys.stdout
        return
    with target.open("w", newline="") as file:
        yield file


def _seconds(stamp: Any) -> float:
    return float(round(stamp.seconds + stamp.nanos / 1e9, 3))
