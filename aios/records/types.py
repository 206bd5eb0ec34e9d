"""Column types that mean the same on every database."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message
from sqlalchemy import JSON, DateTime, LargeBinary
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

M = TypeVar("M", bound=Message)


class UtcTime(TypeDecorator[datetime]):
    """An instant with microseconds. Takes any aware datetime, gives UTC back, and sorts by time on every database."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone: pass an aware datetime")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        # SQLite keeps no zone; PostgreSQL answers in the zone of the session.
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Json(TypeDecorator[Any]):
    """A JSON value. None is SQL NULL, so that `IS NULL` finds it."""

    impl = JSON(none_as_null=True)
    cache_ok = True


class Proto(TypeDecorator[M], Generic[M]):
    """A protobuf message as bytes: `Column("spec", Proto(job_pb2.JobSpec))`. Fields may be added to it freely."""

    impl = LargeBinary
    cache_ok = True

    def __init__(self, message: Callable[[], M]) -> None:
        super().__init__()
        self.message = message

    def process_bind_param(self, value: M | None, dialect: Dialect) -> bytes | None:
        return None if value is None else value.SerializeToString(deterministic=True)

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> M | None:
        if value is None:
            return None
        message = self.message()
        message.ParseFromString(value)
        return message
