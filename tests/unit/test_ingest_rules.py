"""What a message must be to become a row, and when rows become a version."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from aios.errors import InvalidArgument
from aios.names import DatasetName, DeviceName, IngestSourceName
from aios.runtime import nkeys
from services.data.intake.sources import (
    Column,
    Open,
    Reason,
    Rejected,
    Source,
    Type,
    checked,
    device_of,
    due,
    read,
    require_in_time,
    user_of,
    window_of,
)

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
SOURCE = Source(
    IngestSourceName("p", "s"),
    DatasetName("p", "d"),
    (
        Column("at", Type.TIMESTAMP, required=True),
        Column("celsius", Type.DOUBLE, required=True, min=-90, max=60),
        Column("count", Type.INT64),
        Column("open", Type.BOOL),
        Column("note", Type.STRING),
    ),
    time_column="at",
    window=60 * SECOND,
    rows=100,
    lateness=30 * SECOND,
)
BY_ARRIVAL = replace(SOURCE, time_column="")
GOOD: dict[str, Any] = {"at": NOON.isoformat(), "celsius": 21.5}


def says(**members: Any) -> bytes:
    return json.dumps({**GOOD, **members}).encode()


def test_a_message_becomes_a_row_with_all_columns() -> None:
    row, time = read(SOURCE, says(count=3), NOON)
    assert row == {
        "at": int(NOON.timestamp() * 1e6),
        "celsius": 21.5,
        "count": 3,
        "open": None,
        "note": None,
    }
    assert time == NOON


def test_a_time_may_be_seconds_or_text_with_a_zone() -> None:
    assert read(SOURCE, says(at=NOON.timestamp()), NOON)[1] == NOON
    assert read(SOURCE, says(at="2026-03-01T13:00:00+01:00"), NOON)[1] == NOON


@pytest.mark.parametrize(
    ("data", "reason", "detail"),
    [
        (b"\xff", Reason.NOT_JSON, "JSON"),
        (b"[" * 100_000, Reason.TOO_LARGE, "bytes"),
        (b"[" * 50_000, Reason.NOT_JSON, "JSON"),
        (b"[]", Reason.SCHEMA, "object"),
        (says(colour="red"), Reason.SCHEMA, "'colour' is no column"),
        (b'{"at": 0}', Reason.SCHEMA, "celsius is missing"),
        (says(celsius=61), Reason.SCHEMA, "at most 60"),
        (says(celsius="21"), Reason.SCHEMA, "a number"),
        (says(celsius=True), Reason.SCHEMA, "a number"),
        (b'{"at": 0, "celsius": NaN}', Reason.SCHEMA, "a number"),
        (says(count=1.0), Reason.SCHEMA, "whole number"),
        (says(count=2**63), Reason.SCHEMA, "whole number"),
        (says(open=1), Reason.SCHEMA, "true or false"),
        (b'{"at": 0, "celsius": 1, "note": "\\ud800"}', Reason.SCHEMA, "a text"),
        (says(at="2026-03-01T12:00:00"), Reason.SCHEMA, "with a zone"),
        (says(at=-1), Reason.SCHEMA, "before 1970"),
        (says(at=9e10), Reason.EARLY, "after its arrival"),
        (says(at=1e300), Reason.SCHEMA, "a time"),
    ],
)
def test_what_is_wrong_with_a_message_is_said(data: bytes, reason: Reason, detail: str) -> None:
    with pytest.raises(Rejected) as rejected:
        read(SOURCE, data, NOON)
    assert rejected.value.reason is reason
    assert detail in rejected.value.detail


@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*GOOD, "count", "note"]), inner),
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_no_message_breaks_the_reader(data: bytes) -> None:
    try:
        row, time = read(SOURCE, data, NOON)
    except Rejected:
        return
    assert set(row) == {column.name for column in SOURCE.columns}
    assert window_of(SOURCE, time) <= time < window_of(SOURCE, time) + SOURCE.window


def test_a_message_is_late_once_its_window_may_be_closed() -> None:
    require_in_time(SOURCE, NOON, NOON + 89 * SECOND)
    with pytest.raises(Rejected, match="its window ended"):
        require_in_time(SOURCE, NOON, NOON + 90 * SECOND)


@given(st.integers(0, 300), st.integers(0, 300))
def test_no_row_is_in_time_for_a_window_that_time_has_closed(seconds: int, newest: int) -> None:
    time, latest = NOON + seconds * SECOND, NOON + newest * SECOND
    window = Open(window_of(SOURCE, time), 1, 1, NOON)
    try:
        require_in_time(SOURCE, time, latest)
    except Rejected:
        assert due(SOURCE, window, latest, NOON)
    else:
        assert not due(SOURCE, window, latest, NOON)


def test_a_window_is_due_when_it_is_full_quiet_or_over() -> None:
    window = Open(NOON, rows=1, size_bytes=100, newest_arrival=NOON)
    assert not due(SOURCE, window, newest=NOON, now=NOON + 89 * SECOND)
    assert due(SOURCE, window, newest=NOON, now=NOON + 90 * SECOND)
    assert due(SOURCE, replace(window, rows=100), newest=NOON, now=NOON)
    assert due(SOURCE, replace(window, size_bytes=1 << 24), newest=NOON, now=NOON)
    assert not due(BY_ARRIVAL, window, newest=NOON, now=NOON + 59 * SECOND)
    assert due(BY_ARRIVAL, window, newest=NOON, now=NOON + 60 * SECOND)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"columns": ()}, "columns"),
        ({"columns": (Column("a b", Type.INT64),), "time_column": ""}, "columns[0].name"),
        ({"columns": (Column("a", Type.BOOL, min=0),), "time_column": ""}, "columns[0]"),
        ({"columns": (Column("a", Type.INT64, min=2, max=1),), "time_column": ""}, "columns[0]"),
        ({"time_column": "celsius"}, "time_column"),
        ({"window": 2 * timedelta(days=1)}, "window_seconds"),
        ({"rows": -1}, "window_rows"),
        ({"lateness": -SECOND}, "max_lateness_seconds"),
    ],
)
def test_a_source_that_cannot_work_is_refused(change: dict[str, Any], field: str) -> None:
    assert checked(SOURCE) == SOURCE
    with pytest.raises(InvalidArgument) as refused:
        checked(replace(SOURCE, **change))
    assert [*refused.value.fields] == [f"ingest_source.{field}"]


@pytest.mark.parametrize("user", ["", "p/s", "p/s/d/e", "p//d", "p/s/*", "P/s/>", "p.q/../d"])
def test_what_names_no_device_is_none(user: str) -> None:
    name = DeviceName("p", "s", "d")
    assert device_of(user_of(name)) == name
    found = device_of(user)
    assert found is None


def test_a_key_is_written_as_nats_reads_it() -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    encoded = nkeys.account(key.public_key())
    assert len(encoded) == 56
    assert encoded.startswith("A")
    token = nkeys.sign(key, {"sub": "x", "nats": {"type": "user"}})
    assert nkeys.claims(token.encode())["iss"] == encoded
