"""Passes spans on to an OpenTelemetry Collector, beside keeping them: traces go wherever an operator looks at them."""

import asyncio
import logging
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from gateway.telemetry.otlp import PROJECT

WAITING_MAX = 256  # exports: some seconds of a busy platform
TIMEOUT_SECONDS = 5.0

_log = logging.getLogger(__name__)


class Collector:
    """What waits to be passed on. A collector that is away or slow loses spans, and slows nothing down."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._waiting: asyncio.Queue[ExportTraceServiceRequest] = asyncio.Queue(WAITING_MAX)
        self._failing = False

    def offer(self, request: ExportTraceServiceRequest, project: str | None) -> None:
        """Take an export, or drop it where too many wait.

        Args:
            project: Whose spans they are, whatever they say; None for a sender who may name any.
        """
        if self._waiting.full():
            self._fail("it takes too long")
            return
        copy = ExportTraceServiceRequest()
        copy.CopyFrom(request)
        if project is not None:
            for each in copy.resource_spans:
                about = [pair for pair in each.resource.attributes if pair.key != PROJECT]
                about.append(KeyValue(key=PROJECT, value=AnyValue(string_value=project)))
                del each.resource.attributes[:]
                each.resource.attributes.extend(about)
        self._waiting.put_nowait(copy)

    async def run(self) -> None:
        """Send until cancelled."""
        async with grpc.aio.insecure_channel(self._address) as channel:
            export: Any = channel.unary_unary(
                "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
                request_serializer=ExportTraceServiceRequest.SerializeToString,
                response_deserializer=ExportTraceServiceResponse.FromString,
            )
            while True:
                try:
                    await export(await self._waiting.get(), timeout=TIMEOUT_SECONDS)
                    self._failing = False
                except grpc.RpcError as error:
                    self._fail(str(error.code().name))

    def _fail(self, why: str) -> None:
        if not self._failing:  # said once, not for every export
            _log.warning("the collector at %s does not take spans: %s", self._address, why)
        self._failing = True
