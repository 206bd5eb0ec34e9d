"""Alerts: rules on deployments that are looked at every second; what becomes of one is an event and a call."""

import json
import math
import secrets
import uuid
from datetime import UTC, datetime, timedelta
from functools import partial

from google.protobuf.json_format import MessageToDict

from aios.errors import AiosError, InvalidArgument
from aios.inference.v1 import monitoring_pb2
from aios.inference.v1 import monitoring_service_pb2 as pb
from aios.names import AlertName, DeploymentName, ProjectName, check_id
from aios.records import Database, Tx
from aios.runtime.clock import Clock
from services.inference import store as deployments
from services.inference.rollout import Rollout
from services.inference.watch import alert_store, drift_store, feedback_store, rules
from services.inference.watch.drift import DriftReports
from services.inference.watch.rules import FIRING, RESOLVED, Metric, Rule, Standing
from services.inference.watch.store import stamp
from services.inference.watch.truth import Quality
from services.inference.watch.webhooks import Webhooks
from services.inference.watching import Watching

FOR_SECONDS_MAX = 24 * 3600
EVERY_SECONDS, EVERY_SECONDS_MIN, EVERY_SECONDS_MAX = 3600, 60, 7 * 24 * 3600
WEBHOOK_CHARS_MAX = 2_000
MINUTE_SECONDS = 60.0
REQUESTS_MIN = 10
"""Below so many of a minute, one failure or one slow answer would be an alert."""
_Proto = monitoring_pb2.Alert
_LIMITS = {Metric.ERRORS: 100.0, Metric.LIVE_ACCURACY: 1.0, Metric.DRIFT: 100.0}


class Alerts:
    """Alerts of every deployment."""

    def __init__(
        self, db: Database, watching: Watching, drift: DriftReports, webhooks: Webhooks, clock: Clock
    ) -> None:
        self._db = db
        self._watching = watching
        self._drift = drift
        self._webhooks = webhooks
        self._clock = clock
        self._next_report: dict[str, datetime] = {}

    async def create(self, request: pb.CreateAlertRequest) -> monitoring_pb2.Alert:
        """Add a rule.

        Raises:
            InvalidArgument: naming the field.
            AlertExists: the name is taken.
        """
        project = ProjectName.parse(request.parent, "parent").project
        name = AlertName(project, check_id(request.alert_id, "alert_id"))
        asked = request.alert
        of = DeploymentName.parse(asked.deployment, "alert.deployment")
        if of.project != project:
            raise InvalidArgument.of("alert.deployment", f"must lie in projects/{project}")
        _check(asked)
        if asked.webhook:
            try:
                await self._webhooks.check(asked.webhook)
            except InvalidArgument as error:
                raise InvalidArgument.of("alert.webhook", error.fields["webhook"]) from None
        secret = secrets.token_hex(32)

        def write(tx: Tx) -> monitoring_pb2.Alert:
            deployments.get(tx, of)
            made = monitoring_pb2.Alert(
                name=str(name),
                deployment=str(of),
                metric=asked.metric,
                threshold=asked.threshold,
                for_seconds=asked.for_seconds,
                every_seconds=_every(asked),
                webhook=asked.webhook,
                state=_Proto.STATE_OK,
                state_time=stamp(tx.now()),
                create_time=stamp(tx.now()),
            )
            alert_store.add(tx, made, secret)
            answer = alert_store.shown(made)
            answer.secret = secret if made.webhook else ""
            return answer

        return await self._db.once(request, write, monitoring_pb2.Alert)

    async def get(self, name: AlertName) -> monitoring_pb2.Alert:
        """One alert."""
        return alert_store.shown(await self._db.read(lambda tx: alert_store.get(tx, name)))

    async def page(self, request: pb.ListAlertsRequest) -> tuple[list[monitoring_pb2.Alert], str]:
        """A page of a project's alerts, newest first, and the token of the next."""
        project = ProjectName.parse(request.parent, "parent").project
        found, token = await self._db.read(lambda tx: alert_store.page(tx, project, request))
        return [alert_store.shown(each) for each in found], token

    async def delete(self, name: AlertName) -> None:
        """Remove an alert. One that is not there is removed."""
        await self._db.write(lambda tx: alert_store.remove(tx, name))

    async def round(self) -> None:
        """Look at every rule."""
        every = await self._db.read(alert_store.every)
        if not every:
            return
        seen = {each.deployment.name: each for each in await self._db.read(deployments.rollouts)}
        for alert, doubted_since in every:
            of = seen.get(DeploymentName.parse(alert.deployment))
            if of is None or of.deleting:
                continue  # it may come again, under the same name
            if alert.metric == _Proto.METRIC_DRIFT:
                await self._report(alert)
            before = Standing(alert.state == _Proto.STATE_FIRING, doubted_since)
            value = await self._value(alert, of)
            await self._step(alert, before, value)

    async def _step(self, alert: monitoring_pb2.Alert, before: Standing, value: float | None) -> None:
        now, rule = self._clock.now(), _rule(alert)
        after = rules.step(before, rule, value, now)
        if after.firing != before.firing and value is not None:
            alert.state = _Proto.STATE_FIRING if after.firing else _Proto.STATE_OK
            alert.state_message = rules.told(rule, value)
            alert.state_time.CopyFrom(stamp(now))
            event = FIRING if after.firing else RESOLVED
            await self._db.write(
                partial(alert_store.turn, now=alert, event=event, body=_body(alert, event, now))
            )
        elif after != before:
            name = AlertName.parse(alert.name)
            await self._db.write(partial(alert_store.doubt, name=name, standing=after))

    async def _value(self, alert: monitoring_pb2.Alert, of: Rollout) -> float | None:
        """The figure that a rule is about; None where nobody knows it."""
        live = of.live
        match _rule(alert).metric:
            case Metric.ERRORS | Metric.P99 as metric:
                lately = self._watching.lately(of, MINUTE_SECONDS)
                if lately.requests < REQUESTS_MIN:
                    return None
                found = lately.errors_percent if metric is Metric.ERRORS else lately.p99_millis
                return None if math.isnan(found) else found
            case Metric.NO_REPLICA:
                if live is None:
                    return None
                return float(len(live.ready)) if live.wanted and not live.asleep else 1.0
            case Metric.LIVE_ACCURACY:
                if live is None:
                    return None
                quality: Quality = await self._db.read(partial(feedback_store.quality, name=live.name))
                return quality.accuracy if quality.sure else None
            case Metric.DRIFT:
                reports = await self._db.read(partial(drift_store.newest, name=of.deployment.name))
                done = monitoring_pb2.DriftReport.STATE_SUCCEEDED
                return next((each.psi_max for each in reports if each.state == done), None)

    async def _report(self, alert: monitoring_pb2.Alert) -> None:
        """Have a drift report made where the last one is too old."""
        now = self._clock.now()
        if now < self._next_report.get(alert.name, now):
            return
        name = DeploymentName.parse(alert.deployment)
        reports = await self._db.read(partial(drift_store.newest, name=name))
        every = timedelta(seconds=alert.every_seconds)
        due = reports[0].create_time.ToDatetime(UTC) + every if reports else now
        if now >= due:
            asked = monitoring_pb2.DriftReport(psi_limit=alert.threshold)
            try:
                await self._drift.create(pb.CreateDriftReportRequest(parent=str(name), drift_report=asked))
            except AiosError as error:
                alert.state_message = f"no drift report: {error.message}"
                await self._db.write(partial(alert_store.save, now=alert))
            due = now + every
        self._next_report[alert.name] = due


def _body(alert: monitoring_pb2.Alert, event: str, now: datetime) -> str:
    """What a webhook is sent: a CloudEvent, in the structured form."""
    return json.dumps(
        {
            "specversion": "1.0",
            "id": str(uuid.uuid4()),
            "type": f"aios.inference.alert.{event}",
            "source": f"/{alert.name}",
            "time": now.isoformat(),
            "datacontenttype": "application/json",
            "data": MessageToDict(alert_store.shown(alert)),
        }
    )


def _rule(alert: monitoring_pb2.Alert) -> Rule:
    metric = Metric(_Proto.Metric.Name(alert.metric).removeprefix("METRIC_"))
    return Rule(metric, alert.threshold, alert.for_seconds)


def _every(asked: monitoring_pb2.Alert) -> int:
    return (asked.every_seconds or EVERY_SECONDS) if asked.metric == _Proto.METRIC_DRIFT else 0


def _check(asked: monitoring_pb2.Alert) -> None:
    if asked.metric not in _Proto.Metric.values() or not asked.metric:
        raise InvalidArgument.of("alert.metric", "must be one of this release")
    metric = _rule(asked).metric
    limit = _LIMITS.get(metric, math.inf)
    if metric is Metric.NO_REPLICA and asked.threshold:
        raise InvalidArgument.of("alert.threshold", "must not be set: no replica is none")
    if not 0 <= asked.threshold <= limit or math.isinf(asked.threshold):
        raise InvalidArgument.of("alert.threshold", f"must be between 0 and {limit:g}")
    if metric in (Metric.P99, Metric.DRIFT, Metric.LIVE_ACCURACY) and not asked.threshold:
        raise InvalidArgument.of("alert.threshold", "must be above 0")
    if not 0 <= asked.for_seconds <= FOR_SECONDS_MAX:
        raise InvalidArgument.of("alert.for_seconds", f"must be between 0 and {FOR_SECONDS_MAX}")
    if metric is not Metric.DRIFT and asked.every_seconds:
        raise InvalidArgument.of(
            "alert.every_seconds", "must not be set: only drift is looked at now and then"
        )
    if metric is Metric.DRIFT and not EVERY_SECONDS_MIN <= _every(asked) <= EVERY_SECONDS_MAX:
        raise InvalidArgument.of(
            "alert.every_seconds", f"must be between {EVERY_SECONDS_MIN} and {EVERY_SECONDS_MAX}"
        )
    if len(asked.webhook) > WEBHOOK_CHARS_MAX:
        raise InvalidArgument.of("alert.webhook", f"must be {WEBHOOK_CHARS_MAX} characters at most")
