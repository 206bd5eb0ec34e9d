"""Traces: W3C context in and out, and spans sent as OTLP to the gateway's receiver or to a collector.

What has no caller to trace for (heartbeats, reconcilers) makes no spans: a span is made only under another one, or at
the public door.
"""

import logging
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import grpc
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from aios.config import Settings
from aios.errors import Unauthenticated
from aios.runtime.status import from_rpc_error
from aios.runtime.token_files import TokenSource

EXPORT_TIMEOUT_SECONDS = 5.0
EXPORT_EVERY_MILLIS = 500  # a trace can be read about a second after its request
SPAN_QUEUE_MAX = 8192  # about 10 MiB; beyond it spans are dropped, never the work

_log = logging.getLogger(__name__)
_propagator = TraceContextTextMapPropagator()


def door(address: str) -> tuple[str, grpc.ChannelCredentials | None]:
    """What a channel to the public door is made of: `host:port`, and TLS where the address says https.

    Its certificate is checked with the authorities that gRPC trusts: GRPC_DEFAULT_SSL_ROOTS_FILE_PATH names others.
    """
    parts = urlsplit(address)
    if parts.scheme != "https":
        return parts.netloc, None
    return parts.netloc, grpc.ssl_channel_credentials()


def setup_job(service: str, settings: Settings, token: TokenSource) -> None:
    """Send the spans of a job's process to the receiver that is named, else through the public door."""
    setup(service, *receiver(settings, token))


def receiver(
    settings: Settings, token: TokenSource
) -> tuple[str, TokenSource, grpc.ChannelCredentials | None]:
    """Where the spans of a job go, as arguments of `OtlpExporter`."""
    endpoint, credentials = (
        (settings.otlp_endpoint, None) if settings.otlp_endpoint else door(settings.address)
    )
    return endpoint, token, credentials


def setup(
    service: str,
    endpoint: str,
    token: TokenSource | None,
    credentials: grpc.ChannelCredentials | None = None,
) -> None:
    """Send this process's spans to `endpoint` (`host:port`, OTLP over gRPC), as `service`; in TLS with `credentials`."""
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(
        BatchSpanProcessor(
            OtlpExporter(endpoint, token, credentials),
            max_queue_size=SPAN_QUEUE_MAX,
            schedule_delay_millis=EXPORT_EVERY_MILLIS,
        )
    )
    trace.set_tracer_provider(provider)


def shutdown() -> None:
    """Send what is left."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, TracerProvider):
        provider.shutdown()


@contextmanager
def span(
    name: str,
    *,
    traceparent: str | None = None,
    attributes: Mapping[str, str | int | float | bool] | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
) -> Iterator[Span]:
    """Time a step, under `traceparent` where given, else under the current span. Does nothing under neither."""
    parent = _propagator.extract({"traceparent": traceparent}) if traceparent else None
    context = trace.get_current_span(parent).get_span_context()
    if not context.is_valid:
        yield trace.INVALID_SPAN
        return
    made = _tracer().start_span(name, context=parent, kind=kind, attributes=dict(attributes or {}))
    token = otel_context.attach(trace.set_span_in_context(made))
    try:
        yield made
    except Exception as error:
        made.record_exception(error)
        made.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))
        raise
    finally:
        # A stream that its reader left half-way is closed from another context, where nothing was attached.
        if trace.get_current_span() is made:
            otel_context.detach(token)
        made.end()


@contextmanager
def within(traceparent: str) -> Iterator[None]:
    """Make `traceparent` the current context without a span of its own; no change where it is empty."""
    token = otel_context.attach(_propagator.extract({"traceparent": traceparent})) if traceparent else None
    try:
        yield
    finally:
        if token is not None:
            otel_context.detach(token)


def record_span(
    name: str,
    *,
    traceparent: str,
    start: datetime,
    end: datetime,
    attributes: Mapping[str, str | int | float | bool] | None = None,
    error: str = "",
) -> None:
    """Write down a step that is already over, such as the wait in a queue."""
    if not traceparent:
        return
    made = _tracer().start_span(
        name,
        context=_propagator.extract({"traceparent": traceparent}),
        start_time=_nanos(start),
        attributes=dict(attributes or {}),
    )
    if error:
        made.set_status(Status(StatusCode.ERROR, error))
    made.end(end_time=_nanos(end))


def current_traceparent() -> str:
    """The W3C header of the current span; empty without one."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get("traceparent", "")


def current_trace_id() -> str:
    """32 hexadecimal digits; empty without a span."""
    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else ""


def trace_id_of(traceparent: str) -> str:
    """The trace id inside a W3C header; empty when it is none."""
    parts = traceparent.split("-")
    return parts[1] if len(parts) == 4 and len(parts[1]) == 32 else ""


def unsampled_traceparent() -> str:
    """A context that tells everyone on the way not to record: for background calls."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00"


class OtlpExporter(SpanExporter):
    """OTLP/gRPC with a token that may be renewed at any time (the SDK's own takes its headers once)."""

    def __init__(
        self,
        endpoint: str,
        token: TokenSource | None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self._channel = (
            grpc.secure_channel(endpoint, credentials) if credentials else grpc.insecure_channel(endpoint)
        )
        self._export: Any = self._channel.unary_unary(
            "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            request_serializer=ExportTraceServiceRequest.SerializeToString,
        )
        self._token = token
        self._failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            metadata = [("authorization", f"Bearer {self._token()}")] if self._token else []
            metadata.append(("traceparent", unsampled_traceparent()))
            self._export(encode_spans(spans), timeout=EXPORT_TIMEOUT_SECONDS, metadata=metadata)
        except (grpc.RpcError, Unauthenticated) as error:
            if not self._failing:  # say it once, not every half second
                _log.warning("spans cannot be sent: %s", _why(error))
            self._failing = True
            return SpanExportResult.FAILURE
        self._failing = False
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self._channel.close()


def _why(error: grpc.RpcError | Unauthenticated) -> str:
    """One line: the library's own text of an error is five."""
    return from_rpc_error(error).message if isinstance(error, grpc.RpcError) else error.message


@cache  # making one costs as much as a span
def _tracer() -> trace.Tracer:
    return trace.get_tracer("aios")


def _nanos(moment: datetime) -> int:
    return int(moment.timestamp() * 1e9)
