"""Waterfalls and lineage trees."""

from io import StringIO

from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console

from aios.cli.trace import draw, essential, nested, took, tree, waterfall
from aios.data.v1.data_service_pb2 import LineageEdge
from aios.telemetry.v1.trace_service_pb2 import Span


def span(
    key: str, parent: str, service: str, start: float, end: float, name: str = "", error: str = ""
) -> Span:
    def at(moment: float) -> Timestamp:
        return Timestamp(seconds=int(moment), nanos=int(moment % 1 * 1e9))

    return Span(
        span_id=key,
        parent_span_id=parent,
        name=name or key,
        service=service,
        start_time=at(start),
        end_time=at(end),
        error=error,
    )


def shown(renderable: object) -> str:
    out = StringIO()
    Console(file=out, width=200).print(renderable)
    return out.getvalue()


SPANS = [
    span("door", "elsewhere", "envoy", 0, 0.1),
    span("egress", "door", "envoy", 0, 0.1),
    span("create", "egress", "trainer", 0, 0.1),
    span("noted", "create", "inference", 0.1, 0.2, name="consume job.created"),
    span("process", "create", "trainer.job", 1, 9),
    span("hop", "process", "envoy", 2, 2.5),
    span("hop-egress", "hop", "envoy", 2, 2.5),
    span("report", "hop-egress", "trainer", 2, 2.5),
    span("train", "process", "trainer.job", 3, 8),
    span("last-hop", "process", "envoy", 8, 9),
    span("complete", "last-hop", "trainer", 8, 9),
    span("register", "complete", "data", 8.5, 9),
]


def test_spans_stand_under_their_parents_in_order_of_start() -> None:
    assert [(depth, each.span_id) for depth, each in nested(SPANS)][:4] == [
        (0, "door"),
        (1, "egress"),
        (2, "create"),
        (3, "noted"),
    ]
    assert {each.span_id for _, each in nested(SPANS)} == {each.span_id for each in SPANS}


def test_a_trace_with_a_loop_or_a_lost_parent_is_still_drawn() -> None:
    lost = [span("a", "nobody", "x", 0, 1), span("b", "b", "x", 1, 2)]
    assert [each.span_id for _, each in nested(lost)] == ["a", "b"]


def test_what_took_time_is_kept_and_hops_are_left_out() -> None:
    kept = {each.span_id: each.parent_span_id for each in essential(SPANS)}
    assert kept == {
        "door": "",
        "egress": "door",
        "create": "egress",
        "process": "create",
        "train": "process",
        "complete": "process",
        "register": "complete",
    }
    assert SPANS[0].parent_span_id == "elsewhere"


def test_bars_share_one_time_axis() -> None:
    lines = shown(
        waterfall([span("first", "", "a", 0, 1), span("second", "first", "b", 1, 2, error="refused")])
    ).splitlines()
    assert "0 to 2.00 s" in lines[0]
    assert lines[1].rstrip().endswith("━" * 24)
    assert "  second  refused" in lines[2]
    assert lines[2].index("━") > lines[1].index("━")


def test_left_out_spans_are_counted() -> None:
    out = StringIO()
    draw(SPANS, Console(file=out, width=200))
    assert "5 spans more with --all." in out.getvalue()
    out = StringIO()
    draw(SPANS, Console(file=out, width=200), every=True)
    assert "--all" not in out.getvalue()


def test_an_empty_trace_is_no_error() -> None:
    assert "SPAN" in shown(waterfall([]))


def test_lineage_is_a_tree_from_what_is_used_down_to_what_it_came_from() -> None:
    p = "projects/p/"
    edges = [
        LineageEdge(
            source=f"{p}models/m/versions/1", target=f"{p}deployments/d/revisions/1", relation="deployed"
        ),
        LineageEdge(source=f"{p}runs/r", target=f"{p}models/m/versions/1", relation="produced"),
        LineageEdge(source=f"{p}datasets/x/versions/ab", target=f"{p}runs/r", relation="input"),
    ]
    lines = [line.rstrip() for line in shown(tree(edges, f"{p}runs/r")).splitlines()]
    assert lines == [
        "deployments/d/revisions/1",
        "└── models/m/versions/1  deployed",
        "    └── runs/r  produced",
        "        └── datasets/x/versions/ab  input",
    ]


def test_lengths_have_the_unit_that_fits() -> None:
    assert [took(length) for length in (0.0000042, 0.0123, 61.5)] == ["4 µs", "12.3 ms", "61.50 s"]
