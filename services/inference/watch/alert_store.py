"""Alerts, and calls of their webhooks, in SQL. Plain functions of a transaction."""

from datetime import datetime
from typing import NamedTuple
from urllib.parse import urlsplit

from sqlalchemy import ColumnElement, Table, and_, delete, insert, select, update

from aios.errors import AlreadyExists, NotFound
from aios.inference.v1 import monitoring_pb2
from aios.names import AlertName
from aios.records import Page, Tx
from aios.records.pages import ListRequest
from services.inference.tables import alert_calls, alerts
from services.inference.watch.rules import Standing

CALLS_AT_ONCE = 20


class AlertNotFound(NotFound):
    """The project has no such alert. Retrying cannot help."""

    reason = "ALERT_NOT_FOUND"


class AlertExists(AlreadyExists):
    """The name is taken. Choose another one, or delete that alert."""

    reason = "ALERT_EXISTS"


class Call(NamedTuple):
    """A call of a webhook that is to be made."""

    number: int
    alert: AlertName
    url: str
    secret: str
    body: str
    tries: int


def shown(alert: monitoring_pb2.Alert) -> monitoring_pb2.Alert:
    """An alert as anyone who may read it sees it: of the webhook the host alone, since its path is often a secret."""
    told = monitoring_pb2.Alert()
    told.CopyFrom(alert)
    if alert.webhook:
        parts = urlsplit(alert.webhook)
        told.webhook = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/…"
    return told


def add(tx: Tx, made: monitoring_pb2.Alert, secret: str) -> None:
    """Store a new alert.

    Raises:
        AlertExists
    """
    name = AlertName.parse(made.name)
    if tx.execute(select(alerts.c.number).where(*_is(alerts, name))).first() is not None:
        raise AlertExists(f"{name} exists: choose another name, or delete it.", name=made.name)
    tx.execute(insert(alerts).values(project=name.project, id=name.alert, secret=secret, body=made))


def get(tx: Tx, name: AlertName) -> monitoring_pb2.Alert:
    """One alert.

    Raises:
        AlertNotFound
    """
    query = select(alerts.c.body).where(*_is(alerts, name))
    found: monitoring_pb2.Alert | None = tx.execute(query).scalar_one_or_none()
    if found is None:
        raise AlertNotFound(f"{name} does not exist: see `aios alert list`.", name=str(name))
    return found


def page(tx: Tx, project: str, request: ListRequest) -> tuple[list[monitoring_pb2.Alert], str]:
    """A page of a project's alerts, newest first."""
    query = select(alerts).where(alerts.c.project == project)
    found, token = Page.of(request).fetch(tx, query, by=(alerts.c.number,), descending=True)
    return [row.body for row in found], token


def remove(tx: Tx, name: AlertName) -> None:
    """Forget an alert and its calls. One that is not there is none."""
    tx.execute(delete(alerts).where(*_is(alerts, name)))
    tx.execute(
        delete(alert_calls).where(alert_calls.c.project == name.project, alert_calls.c.alert == name.alert)
    )


def every(tx: Tx) -> list[tuple[monitoring_pb2.Alert, datetime | None]]:
    """All alerts, each with the time since which its state is in doubt."""
    query = select(alerts.c.body, alerts.c.doubted_since).order_by(alerts.c.number)
    return [(row.body, row.doubted_since) for row in tx.execute(query)]


def doubt(tx: Tx, name: AlertName, standing: Standing) -> None:
    """Note since when an alert's state is in doubt."""
    values = {"doubted_since": standing.doubted_since}
    tx.execute(update(alerts).where(*_is(alerts, name)).values(values))


def save(tx: Tx, now: monitoring_pb2.Alert) -> bool:
    """Store what is told of an alert, but for its last call. Whether it is still there: one that is gone stays gone."""
    where = _is(alerts, AlertName.parse(now.name))
    stored = tx.execute(select(alerts.c.body).where(*where)).scalar_one_or_none()
    if stored is None:
        return False
    now.delivery = stored.delivery
    tx.execute(update(alerts).where(*where).values(body=now))
    return True


def turn(tx: Tx, now: monitoring_pb2.Alert, event: str, body: str) -> None:
    """Store an alert's new state, tell of it, and have its webhook called. An alert that is gone stays gone."""
    name = AlertName.parse(now.name)
    if not save(tx, now):
        return
    tx.execute(update(alerts).where(*_is(alerts, name)).values(doubted_since=None))
    tx.emit("alert", name.project, name.alert, event, shown(now))
    if now.webhook:
        call = {"project": name.project, "alert": name.alert, "body": body, "tries": 0, "next_time": tx.now()}
        tx.execute(insert(alert_calls).values(call))


def due_calls(tx: Tx, now: datetime) -> list[Call]:
    """Calls whose time has come; of one alert only the oldest, so that they arrive in their order."""
    older = alert_calls.alias()
    first = ~(
        select(older.c.number)
        .where(
            older.c.project == alert_calls.c.project,
            older.c.alert == alert_calls.c.alert,
            older.c.number < alert_calls.c.number,
        )
        .exists()
    )
    of_alert = and_(alerts.c.project == alert_calls.c.project, alerts.c.id == alert_calls.c.alert)
    query = (
        select(alert_calls, alerts.c.body.label("rule"), alerts.c.secret)
        .join(alerts, of_alert)
        .where(alert_calls.c.next_time <= now, first)
        .order_by(alert_calls.c.next_time)
        .limit(CALLS_AT_ONCE)
    )
    return [
        Call(row.number, AlertName(row.project, row.alert), row.rule.webhook, row.secret, row.body, row.tries)
        for row in tx.execute(query)
    ]


def settle_call(tx: Tx, call: Call, delivery: str, again: datetime | None) -> None:
    """Note what became of a call: it is over, or is made again then."""
    mine = alert_calls.c.number == call.number
    if again is None:
        tx.execute(delete(alert_calls).where(mine))
    else:
        tx.execute(update(alert_calls).where(mine).values(tries=call.tries + 1, next_time=again))
    where = _is(alerts, call.alert)
    body = tx.execute(select(alerts.c.body).where(*where)).scalar_one_or_none()
    if body is not None:
        body.delivery = delivery
        tx.execute(update(alerts).where(*where).values(body=body))


def _is(table: Table, name: AlertName) -> tuple[ColumnElement[bool], ...]:
    return table.c.project == name.project, table.c.id == name.alert
