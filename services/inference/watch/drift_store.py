"""Drift reports in SQL. Plain functions of a transaction."""

from datetime import datetime

from sqlalchemy import ColumnElement, insert, select, update

from aios.common.v1 import file_pb2
from aios.errors import NotFound
from aios.inference.v1 import monitoring_pb2
from aios.names import DeploymentName, DriftReportName
from aios.records import Page, Tx
from aios.records.pages import ListRequest
from services.inference.store import revisions
from services.inference.tables import drift_reports, payload_files
from services.inference.watch.store import AT_ONCE_MAX, of

FILES_MAX = 200
"""That one report reads: the newest."""


class DriftReportNotFound(NotFound):
    """The deployment has no such drift report. Retrying cannot help."""

    reason = "DRIFT_REPORT_NOT_FOUND"


def add(tx: Tx, made: monitoring_pb2.DriftReport) -> None:
    """Store a new report and tell of it."""
    name = DriftReportName.parse(made.name)
    key = {"project": name.project, "deployment": name.deployment, "id": name.drift_report}
    tx.execute(insert(drift_reports).values(**key, running=True, body=made))
    tx.emit("drift_report", name.project, name.drift_report, "created", made)


def save(tx: Tx, now: monitoring_pb2.DriftReport) -> None:
    """Store how far a report is, and tell of it where it has ended."""
    name = DriftReportName.parse(now.name)
    running = now.state == monitoring_pb2.DriftReport.STATE_RUNNING
    tx.execute(update(drift_reports).where(*_is(name)).values(running=running, body=now))
    if not running:
        done = now.state == monitoring_pb2.DriftReport.STATE_SUCCEEDED
        tx.emit("drift_report", name.project, name.drift_report, "succeeded" if done else "failed", now)


def get(tx: Tx, name: DriftReportName) -> monitoring_pb2.DriftReport:
    """One report.

    Raises:
        DriftReportNotFound: there is none of this name.
    """
    query = select(drift_reports.c.body).where(*_is(name))
    found: monitoring_pb2.DriftReport | None = tx.execute(query).scalar_one_or_none()
    if found is None:
        raise DriftReportNotFound(f"{name} does not exist: see `aios drift list`.", name=str(name))
    return found


def page(tx: Tx, name: DeploymentName, request: ListRequest) -> tuple[list[monitoring_pb2.DriftReport], str]:
    """A page of a deployment's reports, newest first."""
    query = select(drift_reports).where(*of(drift_reports, name))
    found, token = Page.of(request).fetch(tx, query, by=(drift_reports.c.number,), descending=True)
    return [row.body for row in found], token


def newest(tx: Tx, name: DeploymentName) -> list[monitoring_pb2.DriftReport]:
    """The last few reports of a deployment, newest first."""
    query = select(drift_reports.c.body).where(*of(drift_reports, name))
    return list(tx.execute(query.order_by(drift_reports.c.number.desc()).limit(10)).scalars())


def running(tx: Tx) -> list[monitoring_pb2.DriftReport]:
    """Those that have not ended, oldest first."""
    query = select(drift_reports.c.body).where(drift_reports.c.running).order_by(drift_reports.c.number)
    return list(tx.execute(query.limit(AT_ONCE_MAX)).scalars())


def files(tx: Tx, name: DeploymentName, model_version: str, since: datetime | None) -> list[file_pb2.File]:
    """Kept predictions of a model version: of every revision that serves it, those of a window that is not over too."""
    mine = select(revisions.c.number, revisions.c.spec).where(*of(revisions, name))
    numbers = [row.number for row in tx.execute(mine) if row.spec.model_version == model_version]
    where = [*of(payload_files, name), payload_files.c.revision.in_(numbers)]
    if since is not None:
        where.append(payload_files.c.end_time >= since)
    query = select(payload_files).where(*where).order_by(payload_files.c.end_time.desc()).limit(FILES_MAX)
    return [
        file_pb2.File(path=row.path, sha256=row.sha256, size_bytes=row.size_bytes)
        for row in tx.execute(query)
    ]


def _is(name: DriftReportName) -> tuple[ColumnElement[bool], ...]:
    of_deployment = of(drift_reports, DeploymentName(name.project, name.deployment))
    return (*of_deployment, drift_reports.c.id == name.drift_report)
