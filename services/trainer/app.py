"""The trainer service, put together."""

from contextlib import AsyncExitStack
from pathlib import Path

from aios.bus import Bus, Consumer, Relay, cloudevents
from aios.config import Settings
from aios.data.v1 import data_service_pb2_grpc
from aios.records import Database
from aios.runtime.app import App
from aios.runtime.channel import service_channel
from aios.runtime.clock import SystemClock
from aios.runtime.server import Service
from aios.scheduler.v1 import scheduler_service_pb2_grpc
from aios.trainer.v1 import (
    artifact_service_pb2_grpc,
    sweep_service_pb2_grpc,
    tracked_model_service_pb2_grpc,
    tracking_service_pb2_grpc,
    trainer_service_pb2_grpc,
)
from services.trainer import meters, store
from services.trainer.reconciler import Reconciler
from services.trainer.service import Trainer
from services.trainer.servicer import TrainerServicer
from services.trainer.sweeps.loop import Loop
from services.trainer.sweeps.service import Sweeps
from services.trainer.sweeps.servicer import SweepServicer
from services.trainer.tracking.artifact_servicer import ArtifactServicer
from services.trainer.tracking.artifacts import Artifacts
from services.trainer.tracking.logged_service import LoggedModels
from services.trainer.tracking.model_servicer import TrackedModelServicer
from services.trainer.tracking.registry import Registry
from services.trainer.tracking.service import Tracking
from services.trainer.tracking.servicer import TrackingServicer


async def build(settings: Settings, stack: AsyncExitStack) -> App:
    """Open what the trainer needs and wire it."""
    clock = SystemClock()
    db = await Database.open(settings, "trainer", store.metadata, Path(__file__).parent / "migrations")
    stack.push_async_callback(db.close)
    bus = await Bus.connect(settings, "trainer")
    stack.push_async_callback(bus.close)
    to_data = await stack.enter_async_context(service_channel(settings, "data"))
    to_scheduler = await stack.enter_async_context(service_channel(settings, "scheduler"))

    data = data_service_pb2_grpc.DataServiceStub(to_data)
    scheduler = scheduler_service_pb2_grpc.SchedulerServiceStub(to_scheduler)
    trainer = Trainer(db, data, scheduler, clock)
    reconciler = Reconciler(db, trainer, scheduler, data, clock)
    jobs = Consumer(bus, db, "trainer-jobs", cloudevents.subject("scheduler", "job"), reconciler.on_job_event)
    sweeps = Sweeps(db, trainer, clock)
    add_sweeps = sweep_service_pb2_grpc.add_SweepServiceServicer_to_server
    add_tracking = tracking_service_pb2_grpc.add_TrackingServiceServicer_to_server
    artifacts = Artifacts(db, data, clock)
    models = TrackedModelServicer(LoggedModels(db, clock), Registry(db, data, artifacts))
    add_artifacts = artifact_service_pb2_grpc.add_ArtifactServiceServicer_to_server
    add_models = tracked_model_service_pb2_grpc.add_TrackedModelServiceServicer_to_server
    add = trainer_service_pb2_grpc.add_TrainerServiceServicer_to_server
    return App(
        services=[
            Service(add, TrainerServicer(trainer)),
            Service(add_sweeps, SweepServicer(sweeps)),
            Service(add_tracking, TrackingServicer(Tracking(db, clock))),
            Service(add_artifacts, ArtifactServicer(artifacts)),
            Service(add_models, models),
        ],
        loops=[
            reconciler.run,
            Loop(db, trainer, clock).run,
            jobs.run,
            artifacts.run,
            Relay(db, bus).run,
            *(level.run for level in meters.levels(db)),
        ],
        healthy=db.answers,
    )
