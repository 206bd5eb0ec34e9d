"""The inference service, put together."""

from contextlib import AsyncExitStack
from pathlib import Path

from aios.bus import Bus, Consumer, Relay, cloudevents
from aios.config import Settings
from aios.data.v1 import data_service_pb2_grpc, transform_service_pb2_grpc
from aios.inference.v1 import inference_service_pb2_grpc, monitoring_service_pb2_grpc
from aios.names import JobName
from aios.records import Database
from aios.runtime.app import App
from aios.runtime.channel import service_channel
from aios.runtime.clock import Clock, SystemClock
from aios.runtime.server import Service
from aios.scheduler.v1 import scheduler_service_pb2_grpc
from services.inference import meters, store
from services.inference.predictor import Predictor
from services.inference.reconciler import Reconciler
from services.inference.releases import Releases
from services.inference.service import Deployments
from services.inference.servicer import InferenceServicer
from services.inference.stopwatches import Stopwatches
from services.inference.watch.alerts import Alerts
from services.inference.watch.drift import DriftReports
from services.inference.watch.explanations import Explanations
from services.inference.watch.feedback import FeedbackDesk
from services.inference.watch.loop import Loop
from services.inference.watch.payloads import PayloadLogs
from services.inference.watch.servicer import MonitoringServicer
from services.inference.watch.webhooks import Webhooks
from services.inference.watching import Watching

MIGRATIONS = Path(__file__).parent / "migrations"


async def build(settings: Settings, stack: AsyncExitStack, clock: Clock | None = None) -> App:
    """Open what the inference service needs and wire it."""
    clock = clock or SystemClock()
    silence: Stopwatches[JobName] = Stopwatches()
    db = await Database.open(settings, "inference", store.metadata, MIGRATIONS)
    stack.push_async_callback(db.close)
    bus = await Bus.connect(settings, "inference")
    stack.push_async_callback(bus.close)
    to_data = await stack.enter_async_context(service_channel(settings, "data"))
    to_scheduler = await stack.enter_async_context(service_channel(settings, "scheduler"))

    data = data_service_pb2_grpc.DataServiceStub(to_data)
    scheduler = scheduler_service_pb2_grpc.SchedulerServiceStub(to_scheduler)
    deployments = Deployments(db, data, silence, clock)
    watching = Watching(db, clock)
    reconciler = Reconciler(db, scheduler, data, watching, silence, settings.drain_seconds, clock)
    jobs = Consumer(
        bus, db, "inference-jobs", cloudevents.subject("scheduler", "job"), reconciler.on_job_event
    )
    predictor = await Predictor.open(settings, db, stack)
    payloads = PayloadLogs(db, data, clock)
    explanations = Explanations(db, data, scheduler, clock)
    drift = DriftReports(db, data, transform_service_pb2_grpc.TransformServiceStub(to_data))
    webhooks = Webhooks(db, clock, inside=settings.webhooks_inside)
    alerts = Alerts(db, watching, drift, webhooks, clock)
    monitoring = MonitoringServicer(payloads, explanations, FeedbackDesk(db), drift, alerts)
    add = inference_service_pb2_grpc.add_InferenceServiceServicer_to_server
    add_monitoring = monitoring_service_pb2_grpc.add_MonitoringServiceServicer_to_server
    return App(
        services=[
            Service(add, InferenceServicer(deployments, Releases(db), watching, predictor)),
            Service(add_monitoring, monitoring),
        ],
        loops=[
            reconciler.run,
            jobs.run,
            Loop(payloads, explanations, drift, alerts).run,
            webhooks.run,
            Relay(db, bus).run,
            *(level.run for level in meters.levels(db, watching)),
        ],
        healthy=db.answers,
    )
