"""Builds the data service from its settings: servicer and loops."""

from contextlib import AsyncExitStack
from pathlib import Path

from aios.blobs import Blobs
from aios.bus import Bus, Relay
from aios.config import Settings
from aios.data.v1 import data_service_pb2_grpc
from aios.records import Database
from aios.runtime.app import App
from aios.runtime.clock import SystemClock
from aios.runtime.server import Service
from services.data import store
from services.data.ingest import Ingest
from services.data.servicer import DataServicer

MIGRATIONS = Path(__file__).parent / "migrations"


async def build(settings: Settings, stack: AsyncExitStack) -> App:
    """Open what the data service owns and wire it together."""
    clock = SystemClock()
    db = await Database.open(settings, "data", store.metadata, MIGRATIONS)
    stack.push_async_callback(db.close)
    blobs = await Blobs.open(settings, clock)
    stack.push_async_callback(blobs.close)
    bus = await Bus.connect(settings, "data")
    stack.push_async_callback(bus.close)
    ingest = Ingest(db, blobs, clock)
    stack.push_async_callback(ingest.close)
    servicer = DataServicer(db, blobs, ingest, clock)
    return App(
        services=[Service(data_service_pb2_grpc.add_DataServiceServicer_to_server, servicer)],
        loops=[ingest.reap, Relay(db, bus).run],
        healthy=db.answers,
    )
