"""What a message must be to become a row, and when rows become a version. Pure."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from aios.errors import AlreadyExists, InvalidArgument, NotFound
from aios.names import DatasetName, DeviceName, IngestSourceName

MESSAGE_BYTES_MAX = 64 * 1024  # one reading, not a file: files are uploaded
COLUMNS_MAX = 256
WINDOW_SECONDS, WINDOW_SECONDS_MAX = 60, 24 * 3600
WINDOW_ROWS, WINDOW_ROWS_MAX = 10_000, 100_000
WINDOW_BYTES_MAX = 16 * 1024 * 1024  # of messages; what the service holds of a window while it is committed
LATENESS_SECONDS, LATENESS_SECONDS_MAX = 30, 24 * 3600
SHOWN_CHARS = 80
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
_COLUMN = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")


class IngestSourceNotFound(NotFound):
    """The project has no such source."""

    reason = "INGEST_SOURCE_NOT_FOUND"


class IngestSourceExists(AlreadyExists):
    """The name is taken."""

    reason = "INGEST_SOURCE_EXISTS"


class DeviceNotFound(NotFound):
    """The source has no such device."""

    reason = "DEVICE_NOT_FOUND"


class DeviceExists(AlreadyExists):
    """The source has such a device. Its password cannot be shown again: delete it, then create it."""

    reason = "DEVICE_EXISTS"


class Type(StrEnum):
    """What a column holds."""

    DOUBLE = "double"
    INT64 = "int64"
    STRING = "string"
    BOOL = "bool"
    TIMESTAMP = "timestamp"


class Reason(StrEnum):
    """Why a message is dead."""

    NOT_JSON = "NOT_JSON"
    SCHEMA = "SCHEMA"
    LATE = "LATE"
    EARLY = "EARLY"
    TOO_LARGE = "TOO_LARGE"
    UNKNOWN_DEVICE = "UNKNOWN_DEVICE"


class Rejected(Exception):
    """A message that becomes no row."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Column:
    """One member of a message."""

    name: str
    type: Type
    required: bool = False
    min: float | None = None
    max: float | None = None


@dataclass(frozen=True)
class Source:
    """Where messages come in, and what becomes of them."""

    name: IngestSourceName
    dataset: DatasetName
    columns: Sequence[Column]
    time_column: str = ""
    window: timedelta = timedelta(seconds=WINDOW_SECONDS)
    rows: int = WINDOW_ROWS
    lateness: timedelta = timedelta(seconds=LATENESS_SECONDS)


@dataclass(frozen=True)
class Open:
    """The rows of one window that no version has yet."""

    start: datetime
    rows: int
    size_bytes: int
    newest_arrival: datetime


Row = Mapping[str, Any]
"""Column to value; timestamps are microseconds since 1970."""


def user_of(device: DeviceName) -> str:
    """What a device calls itself. Its topic is `ingest/` and this."""
    return f"{device.project}/{device.ingest_source}/{device.device}"


def device_of(user: str) -> DeviceName | None:
    """The device of that name; None for what names none."""
    parts = user.split("/")
    text = "projects/{}/ingestSources/{}/devices/{}".format(*parts) if len(parts) == 3 else ""
    return DeviceName.parse(text) if DeviceName.matches(text) else None


def checked(source: Source, at: str = "ingest_source") -> Source:
    """Return a source that can work.

    Raises:
        InvalidArgument: naming what is wrong below `at`.
    """
    names = [column.name for column in source.columns]
    if not 1 <= len(names) <= COLUMNS_MAX:
        raise InvalidArgument.of(f"{at}.columns", f"must be 1 to {COLUMNS_MAX}")
    for index, column in enumerate(source.columns):
        field = f"{at}.columns[{index}]"
        if not _COLUMN.fullmatch(column.name) or column.name in names[:index]:
            raise InvalidArgument.of(
                f"{field}.name",
                "must be a letter or `_`, then letters, digits and `_`, 63 at most, and no other column's",
            )
        bounds = [bound for bound in (column.min, column.max) if bound is not None]
        if bounds and column.type not in (Type.DOUBLE, Type.INT64):
            raise InvalidArgument.of(field, f"{column.type} has no least and greatest value: leave them out")
        if not all(map(math.isfinite, bounds)) or bounds != sorted(bounds):
            raise InvalidArgument.of(field, "min and max must be finite, and min not above max")
    timed = {column.name: column for column in source.columns}.get(source.time_column)
    if source.time_column and (timed is None or timed.type is not Type.TIMESTAMP or not timed.required):
        raise InvalidArgument.of(f"{at}.time_column", "must be a required column of type timestamp")
    for name, value, top in (
        ("window_seconds", source.window.total_seconds(), WINDOW_SECONDS_MAX),
        ("window_rows", source.rows, WINDOW_ROWS_MAX),
        ("max_lateness_seconds", source.lateness.total_seconds(), LATENESS_SECONDS_MAX),
    ):
        if not 1 <= value <= top:
            raise InvalidArgument.of(f"{at}.{name}", f"must be 1 to {top}, or 0 for the usual")
    return source


def read(source: Source, data: bytes, arrival: datetime) -> tuple[Row, datetime]:
    """The row that a message is, and when it happened.

    Raises:
        Rejected: it is none.
    """
    if len(data) > MESSAGE_BYTES_MAX:
        raise Rejected(Reason.TOO_LARGE, f"{len(data)} bytes, more than {MESSAGE_BYTES_MAX}")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        raise Rejected(Reason.NOT_JSON, "must be JSON in UTF-8") from None
    if not isinstance(body, dict):
        raise Rejected(Reason.SCHEMA, "must be a JSON object")
    known = {column.name: column for column in source.columns}
    if unknown := [key for key in body if key not in known]:
        raise Rejected(Reason.SCHEMA, f"{_shown(unknown[0])} is no column: there are {', '.join(known)}")
    row = {name: _value(column, body.get(name)) for name, column in known.items()}
    if not source.time_column:
        return row, arrival
    try:
        time = EPOCH + timedelta(microseconds=row[source.time_column])
    except OverflowError:
        raise Rejected(Reason.SCHEMA, f"{source.time_column} lies outside the calendar") from None
    if time < EPOCH:
        raise Rejected(Reason.SCHEMA, f"{source.time_column} lies before 1970")
    # A clock that is ahead would make everybody else late.
    if time > arrival + source.lateness:
        raise Rejected(Reason.EARLY, f"{time.isoformat()} lies after its arrival at {arrival.isoformat()}")
    return row, time


def window_of(source: Source, time: datetime) -> datetime:
    """When the window of a time begins."""
    return EPOCH + (time - EPOCH) // source.window * source.window


def require_in_time(source: Source, time: datetime, newest: datetime) -> None:
    """Refuse what is so late that its window may be closed.

    Args:
        newest: The latest time of any message before.

    Raises:
        Rejected
    """
    end = window_of(source, time) + source.window
    if end + source.lateness <= newest:
        raise Rejected(
            Reason.LATE,
            f"its window ended at {end.isoformat()}, and messages of {newest.isoformat()} have come since",
        )


def due(source: Source, window: Open, newest: datetime, now: datetime) -> bool:
    """Whether rows that wait are to become a version now.

    By event time a window is over once nothing for it would be in time, or nobody has said anything for so long that
    time would have passed it.
    """
    if window.rows >= source.rows or window.size_bytes >= WINDOW_BYTES_MAX:
        return True
    end = window.start + source.window
    if not source.time_column:
        return now >= end
    quiet = now - window.newest_arrival >= source.window + source.lateness
    return quiet or end + source.lateness <= newest


def _value(column: Column, value: Any) -> Any:
    if value is None:
        if column.required:
            raise Rejected(Reason.SCHEMA, f"{column.name} is missing")
        return None
    read = _READ[column.type](value)
    if read is None:
        raise Rejected(Reason.SCHEMA, f"{column.name} must be {_WANTED[column.type]}, not {_shown(value)}")
    if isinstance(read, str):
        return read
    if (column.min is not None and read < column.min) or (column.max is not None and read > column.max):
        between = " ".join(
            f"{word} {bound:g}"
            for word, bound in (("at least", column.min), ("at most", column.max))
            if bound is not None
        )
        raise Rejected(Reason.SCHEMA, f"{column.name} must be {between}, not {_shown(value)}")
    return read


def _number(value: Any) -> float | None:
    try:
        made = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        return None
    return made if math.isfinite(made) else None


def _whole(value: Any) -> int | None:
    return (
        value
        if isinstance(value, int) and not isinstance(value, bool) and INT64_MIN <= value <= INT64_MAX
        else None
    )


def _text(value: Any) -> str | None:
    try:
        return value if isinstance(value, str) and value.encode() is not None else None
    except UnicodeEncodeError:
        return None  # half of a pair


def _time(value: Any) -> int | None:
    """Microseconds since 1970."""
    seconds = _number(value)
    if seconds is not None:
        return round(seconds * 1e6) if abs(seconds) < 1e11 else None
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        if moment is None or moment.tzinfo is None:
            return None
        return (moment - EPOCH) // timedelta(microseconds=1)
    except (ValueError, OverflowError):
        return None


_READ = {
    Type.DOUBLE: _number,
    Type.INT64: _whole,
    Type.STRING: _text,
    Type.BOOL: lambda value: value if isinstance(value, bool) else None,
    Type.TIMESTAMP: _time,
}
_WANTED = {
    Type.DOUBLE: "a number",
    Type.INT64: "a whole number of 64 bits",
    Type.STRING: "a text",
    Type.BOOL: "true or false",
    Type.TIMESTAMP: "a time as RFC 3339 with a zone, or seconds since 1970",
}


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 3] + "..."
