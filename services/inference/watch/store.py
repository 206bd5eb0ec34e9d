"""Kept predictions and explanations in SQL. Plain functions of a transaction."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import ColumnElement, Row, Table, func, insert, select, update

from aios.errors import NotFound
from aios.inference.v1 import monitoring_pb2
from aios.names import DeploymentName, ExplanationName, RevisionName
from aios.records import Page, Tx
from aios.records.pages import ListRequest
from services.inference.store import revisions
from services.inference.tables import explanations, payload_files, payload_logs
from services.inference.watch.files import File


class ExplanationNotFound(NotFound):
    """The deployment has no such explanation. Retrying cannot help."""

    reason = "EXPLANATION_NOT_FOUND"


AT_ONCE_MAX = 1_000  # files that one round makes versions of


def add_file(tx: Tx, revision: RevisionName, file: File, dropped: int) -> bool:
    """Add a file to a deployment's log, once. Whether it was not there yet."""
    name = DeploymentName(revision.project, revision.deployment)
    known = select(payload_files.c.number).where(*of(payload_files, name), payload_files.c.path == file.path)
    if tx.execute(known).first() is not None:
        return False
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
    return True


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


def newest_versions(tx: Tx, name: DeploymentName, limit: int) -> list[str]:
    """Dataset versions of kept predictions, newest first."""
    query = (
        select(payload_files.c.version)
        .where(*of(payload_files, name), payload_files.c.version != "")
        .group_by(payload_files.c.version)
        .order_by(func.max(payload_files.c.window_end).desc())
        .limit(limit)
    )
    return list(tx.execute(query).scalars())


def models_of_revisions(tx: Tx, name: DeploymentName) -> dict[str, str]:
    """The model version of each revision that predictions were kept of."""
    kept = select(payload_files.c.revision).where(*of(payload_files, name)).distinct()
    query = select(revisions.c.number, revisions.c.spec).where(
        *of(revisions, name), revisions.c.number.in_(kept)
    )
    return {f"{name}/revisions/{row.number}": row.spec.model_version for row in tx.execute(query)}


def add_explanation(tx: Tx, made: monitoring_pb2.Explanation) -> None:
    """Store a new explanation and tell of it."""
    name = ExplanationName.parse(made.name)
    key = {"project": name.project, "deployment": name.deployment, "id": name.explanation}
    tx.execute(insert(explanations).values(**key, running=True, body=made))
    tx.emit("explanation", name.project, name.explanation, "created", made)


def save_explanation(tx: Tx, now: monitoring_pb2.Explanation, *, epoch: int) -> None:
    """Store an explanation that has ended and tell of it."""
    name = ExplanationName.parse(now.name)
    tx.execute(update(explanations).where(*_is(name)).values(running=False, epoch=epoch, body=now))
    done = now.state == monitoring_pb2.Explanation.STATE_SUCCEEDED
    tx.emit("explanation", name.project, name.explanation, "succeeded" if done else "failed", now)


def explanation(tx: Tx, name: ExplanationName) -> tuple[monitoring_pb2.Explanation, int]:
    """One explanation, and the newest attempt that handed something over.

    Raises:
        ExplanationNotFound: there is none of this name.
    """
    row = tx.execute(select(explanations).where(*_is(name))).one_or_none()
    if row is None:
        raise ExplanationNotFound(f"{name} does not exist: see `aios explain list`.", name=str(name))
    return row.body, row.epoch


def explanation_page(
    tx: Tx, name: DeploymentName, request: ListRequest
) -> tuple[list[monitoring_pb2.Explanation], str]:
    """A page of a deployment's explanations, newest first."""
    query = select(explanations).where(*of(explanations, name))
    found, token = Page.of(request).fetch(tx, query, by=(explanations.c.number,), descending=True)
    return [row.body for row in found], token


def running_explanations(tx: Tx) -> list[monitoring_pb2.Explanation]:
    """Those whose job is not done, oldest first."""
    query = select(explanations.c.body).where(explanations.c.running).order_by(explanations.c.number)
    return list(tx.execute(query.limit(AT_ONCE_MAX)).scalars())


def _is(name: ExplanationName) -> tuple[ColumnElement[bool], ...]:
    of_deployment = of(explanations, DeploymentName(name.project, name.deployment))
    return (*of_deployment, explanations.c.id == name.explanation)
