"""Builds the data service from its settings: servicer and loops."""

from collections.abc import Collection
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

from aios.blobs import Blobs
from aios.bus import Bus, Relay
from aios.config import Settings
from aios.data.v1 import (
    annotation_service_pb2_grpc,
    data_service_pb2_grpc,
    edge_service_pb2_grpc,
    ingest_service_pb2_grpc,
    privacy_service_pb2_grpc,
    transform_service_pb2_grpc,
)
from aios.inference.v1 import inference_service_pb2 as inference_pb
from aios.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from aios.names import ModelVersionName
from aios.records import Database
from aios.runtime.app import App
from aios.runtime.channel import service_channel
from aios.runtime.clock import SystemClock
from aios.runtime.server import Service
from aios.runtime.tokens import read_key
from aios.scheduler.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
from services.data import adopt, reindex, store
from services.data.annotation.servicer import AnnotationServicer
from services.data.cluster import Cluster
from services.data.edge.desk import Desk
from services.data.edge.servicer import EdgeServicer
from services.data.intake.consumer import Intake
from services.data.intake.door import Door
from services.data.intake.servicer import IngestServicer
from services.data.intake.windows import Windows
from services.data.keys import ProjectKeys
from services.data.privacy_rpcs import PrivacyServicer
from services.data.rpcs import Deployments, Parts
from services.data.servicer import DataServicer
from services.data.transform_servicer import TransformServicer

MIGRATIONS = Path(__file__).parent / "migrations"
PAGE = 500


async def build(settings: Settings, stack: AsyncExitStack) -> App:
    """Open what the data service owns and wire it together."""
    clock = SystemClock()
    db = await Database.open(settings, "data", store.metadata, MIGRATIONS)
    stack.push_async_callback(db.close)
    blobs = await Blobs.open(settings, clock)
    stack.push_async_callback(blobs.close)
    bus = await Bus.connect(settings, "data")
    stack.push_async_callback(bus.close)
    to_inference = await stack.enter_async_context(service_channel(settings, "inference"))
    to_scheduler = await stack.enter_async_context(service_channel(settings, "scheduler"))
    deployments = serving(InferenceServiceStub(to_inference))
    grace = timedelta(seconds=settings.data_grace_seconds)
    kept = timedelta(days=settings.audit_days)
    parts = Parts.of(db, blobs, clock, deployments, grace, kept)
    stack.push_async_callback(parts.close)
    await reindex.rebuild_if_lost(parts)
    await adopt.adopt(parts)
    await parts.ledger.settle_once()
    keys = ProjectKeys(settings.secret("pseudonyms.key"))
    preparing = TransformServicer(parts, SchedulerServiceStub(to_scheduler), keys, Cluster.of(settings))
    intake = [Windows(parts).run]
    if settings.mqtt_address or settings.edge_address:
        door = Door(settings, db, read_key(settings.secret("devices.pem")))
        intake += [Intake(bus, db, door).run, door.shut_out]
    if settings.edge_address:
        intake.append(Desk(bus, db, blobs).run)
    return App(
        services=[
            Service(data_service_pb2_grpc.add_DataServiceServicer_to_server, DataServicer(parts)),
            Service(privacy_service_pb2_grpc.add_PrivacyServiceServicer_to_server, PrivacyServicer(parts)),
            Service(transform_service_pb2_grpc.add_TransformServiceServicer_to_server, preparing),
            Service(
                annotation_service_pb2_grpc.add_AnnotationServiceServicer_to_server, AnnotationServicer(parts)
            ),
            Service(ingest_service_pb2_grpc.add_IngestServiceServicer_to_server, IngestServicer(parts)),
            Service(edge_service_pb2_grpc.add_EdgeServiceServicer_to_server, EdgeServicer(parts)),
        ],
        loops=[parts.ingest.reap, parts.ledger.settle, parts.audit.run, Relay(db, bus).run, *intake],
        heard=parts.audit.hear,
        healthy=db.answers,
    )


def serving(inference: InferenceServiceStub) -> Deployments:
    """Asks the inference service, so that a model version is not deleted under a deployment."""

    async def names(version: ModelVersionName) -> Collection[str]:
        found: list[str] = []
        request = inference_pb.ListDeploymentsRequest(parent=f"projects/{version.project}", page_size=PAGE)
        while True:
            page = await inference.ListDeployments(request)
            found += [each.name for each in page.deployments if each.spec.model_version == str(version)]
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    return names
