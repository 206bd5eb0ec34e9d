"""Tells the inference service what Envoy counts of each revision: what gates and scaling decide by."""

import asyncio
import logging
from collections.abc import Callable

from aios.config import Settings
from aios.errors import AiosError
from aios.inference.v1 import inference_service_pb2, inference_service_pb2_grpc
from aios.names import RevisionName
from aios.runtime.channel import service_channel
from gateway.envoy.admin import Admin, EnvoyDown
from gateway.envoy.counts import REFUSED_FILTER, Counts, Key
from gateway.envoy.files import ConfigFiles

EVERY_SECONDS = 1.0
ASLEEP_SECONDS = 0.1
"""The same while a deployment is at zero: whoever waits for it waits for this too."""

_log = logging.getLogger(__name__)


async def follow(settings: Settings, asleep: Callable[[], bool]) -> None:
    """Report until cancelled. What could not be reported is in the next report.

    Args:
        asleep: Whether a deployment is at zero, so that the first request for it is to be told at once.
    """
    admin = Admin(ConfigFiles(settings.home / "envoy").admin_socket)
    clock = asyncio.get_running_loop().time
    async with service_channel(settings, "inference") as channel:
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        refused, told = 0, 0.0
        while True:
            await asyncio.sleep(ASLEEP_SECONDS if asleep() else EVERY_SECONDS)
            try:
                before, refused = refused, await _refused(admin) if asleep() else 0
                if refused <= before and clock() - told < EVERY_SECONDS:
                    continue
                told = clock()
                await stub.ReportTraffic(to_proto(await admin.counts()))
            except EnvoyDown:
                continue
            except AiosError as error:
                _log.debug("counts were not heard: %s", error.message)


async def _refused(admin: Admin) -> int:
    return sum(each.refused for each in (await admin.counts(REFUSED_FILTER)).values())


def to_proto(counts: dict[Key, Counts]) -> inference_service_pb2.ReportTrafficRequest:
    """The counts as they are reported."""
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
                held=each.refused,
            )
            for key, each in sorted(counts.items())
        ]
    )
