"""Traces as values and as protos."""

from collections.abc import Sequence

from google.protobuf.timestamp_pb2 import Timestamp

from aios.names import TraceName
from aios.telemetry.v1 import trace_service_pb2 as pb
from gateway.telemetry.spans import Span, Summary, summaries

SPANS_BYTES_MAX = 3 * 1024 * 1024  # leaves a quarter of the 4 MiB of a message for lengths and the rest


def timestamp(nanos: int) -> Timestamp:
    result = Timestamp()
    result.FromNanoseconds(nanos)
    return result


def span_to_proto(span: Span) -> pb.Span:
    return pb.Span(
        span_id=span.id,
        parent_span_id=span.parent,
        name=span.name,
        service=span.service,
        start_time=timestamp(span.start),
        end_time=timestamp(span.end),
        attributes=span.attributes,
        error=span.error,
    )


def summary_to_proto(summary: Summary, project: str) -> pb.Trace:
    return pb.Trace(
        name=str(TraceName(project, summary.trace)),
        start_time=timestamp(summary.start),
        end_time=timestamp(summary.end),
        root=summary.root,
    )


def trace_to_proto(spans: Sequence[Span], project: str) -> pb.Trace:
    """One trace of these spans, as they are ordered; of a huge one, the first spans that fit into a message."""
    (summary,) = summaries(spans)
    trace = summary_to_proto(summary, project)
    size = 0
    for span in map(span_to_proto, spans):
        size += span.ByteSize()
        if size > SPANS_BYTES_MAX:
            break
        trace.spans.append(span)
    return trace
