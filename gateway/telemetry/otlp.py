"""OTLP spans to ours. Source: opentelemetry.io/docs/specs/otlp and opentelemetry-proto."""

import base64
import json
from collections.abc import Callable, Iterable, Iterator

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

from gateway.telemetry.spans import ATTRIBUTES_MAX, Span, clipped

PROJECT = "aios.project"
"""Attribute by which the platform's own processes say whose request a span belongs to."""


def read(
    request: ExportTraceServiceRequest, project: str | None, keeps: Callable[[bytes], bool] = lambda _: True
) -> Iterator[Span | None]:
    """The spans of an export, None for each that is malformed.

    Args:
        project: The only project that the sender may write for; None for one who may name any.
        keeps: Whether a trace is wanted, by its id. Spans of others are passed over.
    """
    for resource in request.resource_spans:
        about = attributes(resource.resource.attributes)
        for scope in resource.scope_spans:
            for span in filter(lambda span: keeps(span.trace_id), scope.spans):
                yield _span(span, about.get("service.name", "unknown"), about.get(PROJECT), project)


def attributes(pairs: Iterable[KeyValue]) -> dict[str, str]:
    """Attributes as text, the first of them within the limit."""
    found: dict[str, str] = {}
    for pair in pairs:
        if len(found) >= ATTRIBUTES_MAX:
            break
        found[clipped(pair.key)] = clipped(_text(pair.value))
    return found


def _span(
    span: trace_pb2.Span, service: str, resource_project: str | None, project: str | None
) -> Span | None:
    start, end = span.start_time_unix_nano, span.end_time_unix_nano
    if len(span.trace_id) != 16 or len(span.span_id) != 8 or not 0 < start <= end < 2**63:
        return None
    about = attributes(span.attributes)
    return Span(
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        name=clipped(span.name),
        service=clipped(service),
        start=start,
        end=end,
        project=project or about.get(PROJECT) or resource_project,
        attributes=about,
        error=_error(span),
    )


def _error(span: trace_pb2.Span) -> str:
    if span.status.code != trace_pb2.Status.STATUS_CODE_ERROR:
        return ""
    for event in span.events:
        if event.name == "exception" and not span.status.message:
            about = attributes(event.attributes)
            return clipped(
                ": ".join(filter(None, (about.get("exception.type"), about.get("exception.message"))))
            )
    return clipped(span.status.message) or "error"


def _text(value: AnyValue) -> str:
    match value.WhichOneof("value"):
        case "string_value":
            return value.string_value
        case "bool_value":
            return "true" if value.bool_value else "false"
        case "bytes_value":
            return base64.b64encode(value.bytes_value).decode()
        case "array_value":
            return json.dumps([_text(item) for item in value.array_value.values])
        case "kvlist_value":
            return json.dumps(attributes(value.kvlist_value.values))
        case None:
            return ""
        case number:
            return str(getattr(value, number))
