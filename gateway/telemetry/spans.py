"""Spans as values, and the limits of keeping them. Pure."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from aios.errors import InvalidArgument, NotFound

ROWS_MAX = 500_000  # about three days of a small team's traces
BYTES_MAX = 256 * 1024 * 1024  # of disk that nobody asked for by name
SPANS_PER_TRACE_MAX = 10_000  # 4 MiB, the largest message, holds about as many
ATTRIBUTES_MAX = 64  # per span, as the OpenTelemetry SDKs allow about twice
TEXT_CHARS_MAX = 2048  # of a name or value: enough for a command line or an error with its hint
ROW_BYTES = 200  # of a span beside its texts, indexes included


class TraceNotFound(NotFound):
    """No span of the trace is kept: it is wrong, too old, not sampled, or of another project."""

    reason = "TRACE_NOT_FOUND"


@dataclass(frozen=True)
class Span:
    """One timed step of a trace. Ids are hexadecimal, times nanoseconds since 1970."""

    trace: str
    id: str
    parent: str
    name: str
    service: str
    start: int
    end: int
    project: str | None
    """Known project; None is seen by those who see the trace."""
    attributes: dict[str, str] = field(default_factory=dict)
    error: str = ""

    @property
    def size(self) -> int:
        """Bytes that it takes on disk, nearly."""
        return (
            ROW_BYTES
            + len(self.name)
            + len(self.service)
            + len(self.error)
            + len(json.dumps(self.attributes))
        )


@dataclass(frozen=True)
class Summary:
    """A trace without its spans."""

    trace: str
    project: str | None
    root: str
    """Name of the span that started first."""
    start: int
    end: int
    spans: int
    size: int


def summaries(spans: Iterable[Span]) -> list[Summary]:
    """One summary per trace in `spans`."""
    by_trace: dict[str, list[Span]] = {}
    for span in spans:
        by_trace.setdefault(span.trace, []).append(span)
    return [
        Summary(
            trace=trace,
            project=next((span.project for span in mine if span.project), None),
            root=min(mine, key=lambda span: (span.start, bool(span.parent))).name,
            start=min(span.start for span in mine),
            end=max(span.end for span in mine),
            spans=len(mine),
            size=sum(span.size for span in mine),
        )
        for trace, mine in by_trace.items()
    ]


def check_trace_id(text: str) -> str:
    """A W3C trace id.

    Raises:
        InvalidArgument: it is none.
    """
    if len(text) != 32 or set(text) - set("0123456789abcdef"):
        raise InvalidArgument.of("name", "must end in a trace id: 32 lower-case hexadecimal digits")
    return text


def clipped(text: str) -> str:
    """The text within the limit, with a mark where it was cut."""
    return text if len(text) <= TEXT_CHARS_MAX else text[: TEXT_CHARS_MAX - 1] + "…"
