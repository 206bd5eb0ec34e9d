"""Builds the scheduler from its settings: servicers and loops."""

from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

from aios.bus import Bus, Relay
from aios.config import Settings
from aios.records import Database
from aios.runtime.app import App
from aios.runtime.clock import SystemClock
from aios.runtime.server import Service
from aios.scheduler.v1 import agent_service_pb2_grpc, queue_service_pb2_grpc, scheduler_service_pb2_grpc
from services.scheduler import meters, store
from services.scheduler.agent_servicer import AgentServicer
from services.scheduler.journal import Journal, JournalPool
from services.scheduler.logs import Logs
from services.scheduler.queue_servicer import QueueServicer
from services.scheduler.reconciler import Reconciler
from services.scheduler.servicer import SchedulerServicer
from services.scheduler.sessions import Sessions
from services.scheduler.signing import Signer

MIGRATIONS = Path(__file__).parent / "migrations"


async def build(settings: Settings, stack: AsyncExitStack) -> App:
    """Open what the scheduler owns and wire it together."""
    assert settings.scheduler_key_file is not None
    clock, sessions = SystemClock(), Sessions()
    db = await Database.open(settings, "scheduler", store.metadata, MIGRATIONS)
    stack.push_async_callback(db.close)
    bus = await Bus.connect(settings, "scheduler")
    stack.push_async_callback(bus.close)
    logs = Logs(settings.home / "scheduler" / "logs")
    signer = Signer(settings.scheduler_key_file)
    pool = JournalPool(Journal(settings.home / "scheduler" / "decisions"))
    reconciler = Reconciler(db, sessions, signer, settings.lease_seconds, clock, pool)
    agents = AgentServicer(db, reconciler, sessions, logs, timedelta(seconds=settings.lease_seconds))
    scheduler = SchedulerServicer(db, reconciler, logs, clock)
    queues = QueueServicer(db, reconciler, clock)
    return App(
        services=[
            Service(scheduler_service_pb2_grpc.add_SchedulerServiceServicer_to_server, scheduler),
            Service(queue_service_pb2_grpc.add_QueueServiceServicer_to_server, queues),
            Service(agent_service_pb2_grpc.add_AgentServiceServicer_to_server, agents),
        ],
        loops=[reconciler.run, Relay(db, bus).run, *(level.run for level in meters.levels(db, reconciler))],
        healthy=db.answers,
    )
