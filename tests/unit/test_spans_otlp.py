"""OTLP spans become ours: attributes as text, errors, projects, and what is malformed."""

from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2

from gateway.telemetry import otlp
from gateway.telemetry.spans import ATTRIBUTES_MAX, TEXT_CHARS_MAX, Span, summaries

TRACE, SPAN = bytes(range(16)), bytes(range(8))


def pair(key: str, **value: Any) -> KeyValue:
    return KeyValue(key=key, value=AnyValue(**value))


def wire(**more: Any) -> trace_pb2.Span:
    fields: dict[str, Any] = {
        "trace_id": TRACE,
        "span_id": SPAN,
        "name": "step",
        "start_time_unix_nano": 10,
        "end_time_unix_nano": 20,
    }
    return trace_pb2.Span(**(fields | more))


def read(
    *spans: trace_pb2.Span, project: str | None = None, about: list[KeyValue] | None = None
) -> list[Span | None]:
    resource = Resource(attributes=about or [pair("service.name", string_value="trainer")])
    scope = trace_pb2.ScopeSpans(spans=spans)
    request = ExportTraceServiceRequest(
        resource_spans=[trace_pb2.ResourceSpans(resource=resource, scope_spans=[scope])]
    )
    return list(otlp.read(request, project))


def one(span: trace_pb2.Span, **more: Any) -> Span:
    (found,) = read(span, **more)
    assert found is not None
    return found


def test_a_span_keeps_ids_times_and_service() -> None:
    assert one(wire(parent_span_id=b"\xff" * 8)) == Span(
        trace="000102030405060708090a0b0c0d0e0f",
        id="0001020304050607",
        parent="ffffffffffffffff",
        name="step",
        service="trainer",
        start=10,
        end=20,
        project=None,
    )


def test_attributes_of_every_kind_become_text() -> None:
    nested = KeyValueList(values=[pair("k", int_value=1)])
    array = ArrayValue(values=[AnyValue(string_value="a"), AnyValue(int_value=2)])
    span = one(
        wire(
            attributes=[
                pair("text", string_value="x"),
                pair("whole", int_value=-3),
                pair("real", double_value=0.5),
                pair("yes", bool_value=True),
                pair("raw", bytes_value=b"\x00\xff"),
                pair("list", array_value=array),
                pair("map", kvlist_value=nested),
                KeyValue(key="nothing"),
            ]
        )
    )
    assert span.attributes == {
        "text": "x",
        "whole": "-3",
        "real": "0.5",
        "yes": "true",
        "raw": "AP8=",
        "list": '["a", "2"]',
        "map": '{"k": "1"}',
        "nothing": "",
    }


def test_attributes_are_bounded() -> None:
    many = [pair(f"k{i}", string_value="x" * 5000) for i in range(200)]
    span = one(wire(attributes=many))
    assert len(span.attributes) == ATTRIBUTES_MAX
    assert {len(value) for value in span.attributes.values()} == {TEXT_CHARS_MAX}
    assert one(wire(name="n" * 5000)).name.endswith("n…")


def test_an_error_is_its_message_or_its_exception() -> None:
    error = trace_pb2.Status.STATUS_CODE_ERROR
    raised = trace_pb2.Span.Event(
        name="exception",
        attributes=[
            pair("exception.type", string_value="ValueError"),
            pair("exception.message", string_value="bad"),
        ],
    )
    assert one(wire()).error == ""
    assert one(wire(status=trace_pb2.Status(code=error, message="no disk"))).error == "no disk"
    assert one(wire(status=trace_pb2.Status(code=error), events=[raised])).error == "ValueError: bad"
    assert one(wire(status=trace_pb2.Status(code=error))).error == "error"


def test_the_project_of_a_worker_is_its_tokens_whatever_the_span_says() -> None:
    named = wire(attributes=[pair("aios.project", string_value="theirs")])
    assert one(named).project == "theirs"
    assert one(named, project="mine").project == "mine"
    resource = [pair("aios.project", string_value="whole")]
    assert one(wire(), about=resource).project == "whole"
    assert one(named, about=resource).project == "theirs"


def test_malformed_spans_are_told_apart_from_good_ones() -> None:
    bad = [
        wire(trace_id=b"short"),
        wire(span_id=b""),
        wire(start_time_unix_nano=0),
        wire(end_time_unix_nano=5),
        wire(end_time_unix_nano=2**64 - 1),
    ]
    assert read(*bad, wire()) == [None] * 5 + [one(wire())]


def test_a_summary_is_named_after_the_span_that_started_first() -> None:
    def span(name: str, start: int, end: int, project: str | None = None) -> Span:
        return Span("t" * 32, name, "", f"span {name}", "s", start, end, project)

    (summary,) = summaries([span("b", 5, 9, "p"), span("a", 3, 6)])
    assert (summary.root, summary.start, summary.end, summary.project, summary.spans) == (
        "span a",
        3,
        9,
        "p",
        2,
    )
