"""Readers of traces: whatever they look like on disk, jobs of one type come out, in order of arrival.

What a file is, is told by its name and its header: `.trace` is the format of Gavel, or of its fork Shockwave, whose
speeds lie in `throughputs.csv` or `<stem>.phases.csv` beside it; `.jsonl` is an export of our own history; `.csv` is
Philly's, or plain with columns `arrival`, `duration` and optionally `gpus`, `type`, `cpu` (millicores), `memory` (bytes),
`queue`, `name`, `priority`, `weight`, `selector`, `prefers`, `tolerates` (labels such as `zone=a;disk=ssd`), and `topology`
(a label that the nodes of a gang have the same value of, such as `rack`; with `rack?` it had better be so).
Any of them may be compressed (`.gz`).
"""

import csv
import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ANY = ""
"""In `speeds`: on whatever type of accelerator the cluster has."""


class TraceInvalid(ValueError):
    """A trace that cannot be read; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of a job over which its speed is the same."""

    steps: float
    factor: float
    """Of the job's speed as it was at its start."""


@dataclass(frozen=True, slots=True)
class TraceJob:
    """A job as it was, or would have been.

    Attributes:
        arrival: Seconds since the first arrival of the trace.
        replica: Resources of one replica of the gang.
        steps: Its work.
        speeds: Steps per second of the whole gang at its start, by type of accelerator or for `ANY`.
        phases: Where its speed changes as it goes on; none where it does not.
        least, agreement: Of an elastic job, as in the engine's; so are `selector`, `prefers`, `tolerates`, `together`
            and `strictly`.
        alone: Seconds that it takes with its devices to itself, as its fairness is measured; 0: as computed.
    """

    name: str
    arrival: float
    steps: float
    speeds: Mapping[str, float]
    replica: Mapping[str, float] = field(default_factory=lambda: {"gpu": 1})
    replicas: int = 1
    queue: str = ""
    priority: int = 0
    weight: float = 1.0
    phases: tuple[Phase, ...] = ()
    alone: float = 0.0
    least: int = 0
    agreement: float = 0.0
    selector: Mapping[str, str] = field(default_factory=dict)
    prefers: Mapping[str, str] = field(default_factory=dict)
    tolerates: Mapping[str, str] = field(default_factory=dict)
    together: str = ""
    strictly: bool = False

    def seconds(self, kind: str = ANY) -> float:
        """How long it runs on a type of accelerator, or on its fastest, without a stop."""
        speed = self.speeds.get(kind) or self.speeds.get(ANY) or max(self.speeds.values())
        if not self.phases:
            return self.steps / speed
        return sum(phase.steps / (phase.factor * speed) for phase in self.phases)

    @property
    def exclusive(self) -> float:
        """Seconds alone on its devices, for fairness."""
        return self.alone or self.seconds()


def read(path: Path) -> list[TraceJob]:
    """The jobs of a trace, the first arriving at zero.

    Raises:
        TraceInvalid: The file is none of the known formats, or a row of it is wrong.
    """
    name = path.name.removesuffix(".gz")
    try:
        if name.endswith(".trace"):
            jobs = list(_gavel(path))
        elif name.endswith((".jsonl", ".ndjson")):
            jobs = list(_history(path))
        elif name.endswith(".csv"):
            jobs = list(_csv(path))
        else:
            raise TraceInvalid(
                f"{path}: a trace ends in .trace, .jsonl or .csv, and may end in .gz after that"
            )
    except (ValueError, KeyError, IndexError, UnicodeDecodeError) as error:
        if isinstance(error, TraceInvalid):
            raise
        raise TraceInvalid(f"{path}: {type(error).__name__}: {error}") from error
    if not jobs:
        raise TraceInvalid(f"{path}: no jobs")
    jobs.sort(key=lambda job: job.arrival)
    first = jobs[0].arrival
    return [replace(job, arrival=job.arrival - first) for job in jobs]


def elastic(jobs: Sequence[TraceJob], agreement: float) -> list[TraceJob]:
    """The same history, of jobs that may run with fewer replicas than they asked for, down to one."""
    return [replace(job, least=1, agreement=agreement) if job.replicas > 1 else job for job in jobs]


def _lines(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        for line in file:
            if line.strip():
                yield line.rstrip("\r\n")


def _rows(path: Path) -> Iterator[dict[str, str]]:
    return csv.DictReader(_lines(path))


# Gavel and its fork: no header, ten columns or twelve.


def _gavel(path: Path) -> Iterator[TraceJob]:
    stem = path.name.removesuffix(".gz").removesuffix(".trace")
    phases = {row["job"]: row for row in _optional(path.with_name(f"{stem}.phases.csv"))}
    speeds = {
        (row.pop("job_type"), row.pop("gpus")): {f"gpu/{kind}": float(speed) for kind, speed in row.items()}
        for row in _optional(path.with_name("throughputs.csv"))
    }
    for number, line in enumerate(_lines(path)):
        columns = line.split("\t")
        if len(columns) not in (10, 12):
            raise TraceInvalid(f"{path}, row {number + 1}: {len(columns)} columns, where 10 or 12 are due")
        dynamic = len(columns) == 12
        job_type, gpus = columns[0], columns[6]
        job = TraceJob(
            name=str(number),
            arrival=float(columns[-1]),
            steps=float(columns[5]),
            speeds={},
            replicas=int(gpus),
            weight=float(columns[8 if dynamic else 7]),
        )
        if str(number) in phases:
            yield _with_phases(job, phases[str(number)])
        elif (job_type, gpus) in speeds:
            yield replace(job, speeds=speeds[job_type, gpus])
        elif dynamic:
            yield replace(job, speeds={ANY: job.steps / float(columns[10])})
        else:
            raise TraceInvalid(f"{path}: throughputs.csv beside it has no row for {job_type} on {gpus} GPUs")


def _optional(path: Path) -> Iterable[dict[str, str]]:
    return _rows(path) if path.exists() else ()


def _with_phases(job: TraceJob, row: Mapping[str, str]) -> TraceJob:
    """Work is counted in epochs, for these are what a dynamic job's progress is known in."""
    pairs = [part.split("x") for part in row["phases"].split()]
    first = 1 / float(pairs[0][1])
    found = tuple(Phase(float(epochs), 1 / (float(seconds) * first)) for epochs, seconds in pairs)
    return replace(
        job,
        steps=sum(phase.steps for phase in found),
        speeds={ANY: first},
        phases=found if len(found) > 1 else (),
        alone=float(row["alone_seconds"]),
    )


# Comma-separated, with a header that says which.


def _csv(path: Path) -> Iterator[TraceJob]:
    rows = _rows(path)
    for number, row in enumerate(rows):
        if "timestamp" in row:
            at = datetime.fromisoformat(row["timestamp"]).replace(tzinfo=UTC).timestamp()
            name, gpus, queue = str(number), row["num_gpus"], row.get("cluster", "")
        elif "submit_time" in row:
            at, name, gpus, queue = float(row["submit_time"]), row["job_id"], row["num_gpu"], ""
        elif "arrival" in row:
            at, gpus, queue = float(row["arrival"]), row.get("gpus") or "1", row.get("queue") or ""
            name = row.get("name") or str(number)
        else:
            raise TraceInvalid(f"{path}: the header has neither arrival nor timestamp nor submit_time")
        seconds, plain = float(row["duration"]), _plain(row)
        topology = (row.get("topology") or "").strip()
        count = _number(gpus)
        if seconds < 0 or not (count > 0 or (plain and count == 0)) or (count > 1 and count != int(count)):
            raise TraceInvalid(
                f"{path}, row {number + 2}: a duration below 0, or fewer than 1 GPU and no share of one"
            )
        # With processors or memory beside them its GPUs are on one node, as they were; else they may be anywhere.
        whole: dict[str, float] = {**plain, **({row.get("type") or "gpu": count} if count else {})}
        yield TraceJob(
            name=name,
            arrival=at,
            # One that ended at once still was there.
            steps=max(1.0, seconds),
            speeds={ANY: 1.0},
            replica=whole if plain or count < 1 else {"gpu": 1},
            replicas=1 if plain or count < 1 else int(count),
            queue=queue,
            priority=int(row.get("priority") or 0),
            weight=float(row.get("weight") or 1),
            selector=_labels(row, "selector"),
            prefers=_labels(row, "prefers"),
            tolerates=_labels(row, "tolerates"),
            together=topology.removesuffix("?"),
            strictly=bool(topology) and not topology.endswith("?"),
        )


def _number(text: str | float) -> float:
    """A whole number where it is one: of devices a part is a share of one."""
    value = float(text)
    return int(value) if value.is_integer() else value


def _labels(row: Mapping[str, str], column: str) -> dict[str, str]:
    pairs = [each.partition("=") for each in (row.get(column) or "").split(";") if each]
    return {name.strip(): value.strip() for name, _, value in pairs}


def _plain(row: Mapping[str, str]) -> dict[str, int]:
    """Processors and memory, where a table has columns for them."""
    return {name: int(row[name]) for name in ("cpu", "memory") if row.get(name) not in (None, "", "0")}


# Our own history: one object a line, with `name`, `submit`, `runs` (pairs of start and stop) and `end`, all times in
# seconds; and optionally `queue`, `replica` (resources), `replicas`, `work` (steps), `kind` (type that it ran on),
# `priority` and `weight`. Without an end it is left out, since nobody knows how long it would have been, and so are
# services, which somebody ended.


def _history(path: Path) -> Iterator[TraceJob]:
    for number, line in enumerate(_lines(path)):
        entry: dict[str, Any] = json.loads(line)
        if entry.get("end") is None or entry.get("service"):
            continue
        runs = [(float(start), float(stop)) for start, stop in entry["runs"]]
        seconds = sum(stop - start for start, stop in runs)
        if seconds < 0:
            raise TraceInvalid(f"{path}, line {number + 1}: it ran {seconds} s")
        work = float(entry.get("work") or 0) or max(1.0, seconds)
        kind = entry.get("kind") or ANY
        yield TraceJob(
            name=str(entry["name"]),
            arrival=float(entry["submit"]),
            steps=work,
            speeds={kind: work / max(1.0, seconds)},
            replica={key: _number(value) for key, value in (entry.get("replica") or {"gpu": 1}).items()},
            replicas=int(entry.get("replicas") or 1),
            queue=str(entry.get("queue") or ""),
            priority=int(entry.get("priority") or 0),
            weight=float(entry.get("weight") or 1),
        )
