"""Spans in, as OTLP; traces out."""

from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp_pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as otlp_grpc

from aios.names import ProjectName, TraceName
from aios.records import Page
from aios.runtime.context import principal
from aios.telemetry.v1 import trace_service_pb2 as pb
from aios.telemetry.v1 import trace_service_pb2_grpc
from gateway.telemetry import mapping, otlp
from gateway.telemetry.collector import Collector
from gateway.telemetry.sampling import Sampler
from gateway.telemetry.spans import check_trace_id
from gateway.telemetry.store import SpanStore

Context = grpc.aio.ServicerContext[Any, Any]
FOREIGN = {"opentelemetry.proto.collector.trace.v1.TraceService": "spans.write"}
"""The permission of a service whose proto is not ours."""
PAGE_SIZE, PAGE_SIZE_MAX = 20, 200


class OtlpServicer(otlp_grpc.TraceServiceServicer):
    """The receiver. A worker's spans are its project's, whatever they say. Under load it keeps a part of the traces;
    a collector gets all."""

    def __init__(
        self, store: SpanStore, sampler: Sampler | None = None, collector: Collector | None = None
    ) -> None:
        self._store = store
        self._sampler = sampler or Sampler()
        self._collector = collector

    async def Export(
        self, request: otlp_pb.ExportTraceServiceRequest, context: Context
    ) -> otlp_pb.ExportTraceServiceResponse:
        caller = principal()
        project = None if caller.everywhere else caller.project
        if self._collector is not None:
            self._collector.offer(request, project)
        found = list(otlp.read(request, project, self._sampler.keeps))
        spans = [span for span in found if span is not None]
        self._store.add(spans)
        response = otlp_pb.ExportTraceServiceResponse()
        if len(spans) < len(found):
            response.partial_success.rejected_spans = len(found) - len(spans)
            response.partial_success.error_message = "spans need ids of 16 and 8 bytes, and start <= end"
        return response


class TraceServicer(trace_service_pb2_grpc.TraceServiceServicer):
    """TraceService: convert, call, convert."""

    def __init__(self, store: SpanStore) -> None:
        self._store = store

    async def GetTrace(self, request: pb.GetTraceRequest, context: Context) -> pb.Trace:
        name = TraceName.parse(request.name)
        who = None if principal().everywhere else name.project
        return mapping.trace_to_proto(await self._store.get(check_trace_id(name.trace), who), name.project)

    async def ListTraces(self, request: pb.ListTracesRequest, context: Context) -> pb.ListTracesResponse:
        project, page = (
            ProjectName.parse(request.parent, "parent").project,
            Page.of(request, PAGE_SIZE, PAGE_SIZE_MAX),
        )
        found, token = await self._store.list(page, project, with_unowned=principal().everywhere)
        traces = [mapping.summary_to_proto(summary, project) for summary in found]
        return pb.ListTracesResponse(traces=traces, next_page_token=token)
