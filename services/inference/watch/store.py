"""Kept predictions, feedback, explanations, drift reports and alerts in SQL. Plain functions of a transaction."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import ColumnElement, Row, Table, func, insert, select, update

from aios.inference.v1 import monitoring_pb2
from aios.names import DeploymentName, RevisionName
from aios.records import Tx
from services.inference.tables import feedback, payload_files, payload_logs
from services.inference.watch.files import File

AT_ONCE_MAX = 1_000  # files that one round makes versions of


def add_file(tx: Tx, revision: RevisionName, file: File, dropped: int) -> None:
    """Add a file to a deployment's log, once."""
    name = DeploymentName(revision.project, revision.deployment)
    known = select(payload_files.c.number).where(*of(payload_files, name), payload_files.c.path == file.path)
    if tx.execute(known).first() is not None:
        return
    key = {"project": name.project, "deployment": name.deployment}
    tx.execute(
        insert(payload_files).values(
            **key,
            revision=int(revision.revision),
            path=file.path,
            sha256=file.sha256,
            size_bytes=file.size_bytes,
            rows=file.rows,
            start_time=file.start,
            end_time=file.end,
            window_end=file.window_end,
        )
    )
    grown = {"rows": payload_logs.c.rows + file.rows, "dropped": payload_logs.c.dropped + dropped}
    changed = tx.execute(update(payload_logs).where(*of(payload_logs, name)).values(grown))
    if changed.rowcount == 0:
        tx.execute(insert(payload_logs).values(**key, rows=file.rows, dropped=dropped))


def payload_status(tx: Tx, name: DeploymentName) -> monitoring_pb2.PayloadLogStatus:
    """How far a deployment's log is, but for the dataset's name."""
    counts = tx.execute(select(payload_logs).where(*of(payload_logs, name))).one_or_none()
    mine = of(payload_files, name)
    waiting = select(func.sum(payload_files.c.rows)).where(*mine, payload_files.c.version == "")
    newest = select(func.max(payload_files.c.end_time)).where(*mine)
    last = (
        select(payload_files.c.version)
        .where(*mine, payload_files.c.version != "")
        .order_by(payload_files.c.window_end.desc(), payload_files.c.number.desc())
        .limit(1)
    )
    shown = monitoring_pb2.PayloadLogStatus(
        deployment=str(name),
        latest_version=tx.execute(last).scalar_one_or_none() or "",
        rows=counts.rows if counts else 0,
        dropped=counts.dropped if counts else 0,
        rows_waiting=tx.execute(waiting).scalar_one() or 0,
    )
    moment = tx.execute(newest).scalar_one()
    if moment is not None:
        shown.newest_time.CopyFrom(stamp(moment))
    return shown


def due_files(tx: Tx, until: datetime) -> list[tuple[RevisionName, File]]:
    """Files of windows that were over by then and are in no version."""
    where = (payload_files.c.version == "", payload_files.c.window_end <= until)
    query = select(payload_files).where(*where).order_by(payload_files.c.number).limit(AT_ONCE_MAX)
    return [
        (RevisionName(row.project, row.deployment, str(row.revision)), _file(row))
        for row in tx.execute(query)
    ]


def mark_committed(tx: Tx, name: DeploymentName, paths: Sequence[str], version: str) -> None:
    """A version has these files."""
    where = (*of(payload_files, name), payload_files.c.path.in_(paths))
    tx.execute(update(payload_files).where(*where).values(version=version))


def files_between(tx: Tx, name: DeploymentName, start: datetime, end: datetime, limit: int) -> list[File]:
    """The newest files of a deployment with predictions of that time, newest first."""
    where = (*of(payload_files, name), payload_files.c.end_time >= start, payload_files.c.start_time < end)
    query = select(payload_files).where(*where).order_by(payload_files.c.end_time.desc()).limit(limit)
    return [_file(row) for row in tx.execute(query)]


@dataclass(frozen=True)
class Truth:
    """What was right for one instance of a prediction."""

    key: str
    """Its trace, or `request/` and its request."""
    instance: int
    truth: Any


def add_feedback(tx: Tx, name: DeploymentName, truths: Sequence[Truth]) -> None:
    """Keep feedback in place of what was said of the same instances before."""
    for each in truths:
        where = (*of(feedback, name), feedback.c.key == each.key, feedback.c.instance == each.instance)
        said = {"truth": each.truth, "time": tx.now()}
        if tx.execute(update(feedback).where(*where).values(said)).rowcount == 0:
            key = {"project": name.project, "deployment": name.deployment}
            row = {**key, "key": each.key, "instance": each.instance, **said}
            tx.execute(insert(feedback).values(row))


def feedback_since(tx: Tx, name: DeploymentName, start: datetime, limit: int) -> list[Truth]:
    """Feedback that came since then, newest first."""
    query = select(feedback).where(*of(feedback, name), feedback.c.time >= start)
    found = tx.execute(query.order_by(feedback.c.time.desc()).limit(limit))
    return [Truth(row.key, row.instance, row.truth) for row in found]


def of(table: Table, name: DeploymentName) -> tuple[ColumnElement[bool], ...]:
    """Which rows belong to a deployment."""
    return table.c.project == name.project, table.c.deployment == name.deployment


def stamp(moment: datetime) -> Timestamp:
    """As callers see it."""
    made = Timestamp()
    made.FromDatetime(moment)
    return made


def _file(row: Row[Any]) -> File:
    return File(
        row.path,
        row.sha256,
        row.size_bytes,
        row.rows,
        row.start_time,
        row.end_time,
        row.window_end,
        row.version,
    )
