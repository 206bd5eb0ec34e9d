"""Tells the inference service what Envoy counts of each revision: what gates and scaling decide by."""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress

from aios.config import Settings
from aios.errors import AiosError
from aios.inference.v1 import inference_service_pb2, inference_service_pb2_grpc
from aios.names import RevisionName
from aios.runtime.channel import service_channel
from gateway.activation import Activator
from gateway.envoy.admin import Admin, EnvoyDown
from gateway.envoy.counts import Counts, Key
from gateway.envoy.files import ConfigFiles

EVERY_SECONDS = 1.0
_log = logging.getLogger(__name__)


async def follow(settings: Settings, activator: Activator) -> None:
    """Report until cancelled, and at once when a request begins to wait. What could not be reported is in the next."""
    admin = Admin(ConfigFiles(settings.home / "envoy").admin_socket)
    async with service_channel(settings, "inference") as channel:
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(activator.asked.wait(), EVERY_SECONDS)
            activator.asked.clear()
            try:
                await stub.ReportTraffic(to_proto(await admin.counts(), activator.count()))
            except EnvoyDown:
                await asyncio.sleep(EVERY_SECONDS)
            except AiosError as error:
                _log.debug("counts were not heard: %s", error.message)
                await asyncio.sleep(EVERY_SECONDS)


def to_proto(
    counts: Mapping[Key, Counts], held: Mapping[Key, int]
) -> inference_service_pb2.ReportTrafficRequest:
    """The counts as they are reported.

    Args:
        held: Requests that were found waiting, beside those that Envoy itself found nobody for.
    """
    return inference_service_pb2.ReportTrafficRequest(
        counts=[
            inference_service_pb2.TrafficCount(
                revision=str(RevisionName(key.project, key.deployment, key.revision)),
                door=key.protocol,
                requests=each.requests,
                errors=each.errors,
                in_flight=each.in_flight,
                bounds_millis=sorted(each.within),
                within=[each.within[bound] for bound in sorted(each.within)],
                held=each.refused + held.get(key, 0),
            )
            for key, each in sorted(counts.items())
        ]
    )
