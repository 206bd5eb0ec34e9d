"""What comes from the model's process becomes spans, or nothing."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import StatusCode

from services.inference.replica.spans import parse

RESOURCE = Resource({"service.name": "triton"})
GOOD: dict[str, Any] = {
    "start": 1_000,
    "end": 3_000,
    "attributes": {"aios.model": "digits", "aios.batch.rows": 2},
    "error": "",
    "spans": [["0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "00f067aa0ba902b7"]],
}


def test_a_datagram_becomes_spans_with_the_ids_it_names() -> None:
    [span] = parse(json.dumps(GOOD).encode(), RESOURCE)
    assert span.context is not None
    assert span.parent is not None
    assert f"{span.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331"
    assert f"{span.context.span_id:016x}" == "00f067aa0ba902b7"
    assert (span.start_time, span.end_time) == (1_000, 3_000)
    assert span.status.status_code is StatusCode.UNSET


def test_a_failed_batch_is_an_error() -> None:
    [span] = parse(json.dumps({**GOOD, "error": "shape"}).encode(), RESOURCE)
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "shape")


@pytest.mark.parametrize(
    "change",
    [
        {"spans": [["0" * 32, "b7ad6b7169203331", "00f067aa0ba902b7"]]},
        {"spans": [["zz", "b7ad6b7169203331", "00f067aa0ba902b7"]]},
        {"spans": [["one"]]},
        {"attributes": {"a": {"nested": 1}}},
        {"start": None},
    ],
)
def test_what_is_no_span_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        parse(json.dumps({**GOOD, **change}).encode(), RESOURCE)


NOISE = st.recursive(st.none() | st.text() | st.integers(), st.lists).map(lambda v: json.dumps(v).encode())


@given(st.binary() | NOISE)
def test_noise_is_refused_and_never_more(data: bytes) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        parse(data, RESOURCE)
