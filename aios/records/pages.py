"""Pages of a List: sizes, opaque tokens, and the query that continues after the last row seen."""

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol, Self, TypeVar, cast

from google.protobuf.message import Message
from sqlalchemy import ColumnElement, Row, Select, literal, tuple_

from aios.errors import InvalidArgument
from aios.records.tx import Tx

PAGE_SIZE = 50
PAGE_SIZE_MAX = 500  # at ~4 KiB a resource a page stays within half of the 4 MiB message limit
_CHECKSUM_BYTES = 8
T = TypeVar("T")


class PageTokenInvalid(InvalidArgument):
    """The page_token is damaged or belongs to another query. Start again without one."""

    reason = "PAGE_TOKEN_INVALID"


class ListRequest(Protocol):
    """What every List request has (AIP-158)."""

    page_size: int
    page_token: str


@dataclass(frozen=True)
class Page:
    """What one List call asks for. `await db.read(lambda tx: Page.of(request).fetch(tx, query, by=(jobs.c.id,)))`."""

    size: int
    query: str
    """Digest of the request without its page fields: a token continues this query alone."""
    after: tuple[Any, ...] | None
    """Key of the last row seen; None at the start."""

    @classmethod
    def of(cls, request: ListRequest, size: int = PAGE_SIZE, size_max: int = PAGE_SIZE_MAX) -> Self:
        """Read the page fields of a List request: 0 is the default size, too large is coerced.

        Raises:
            InvalidArgument: Negative size.
            PageTokenInvalid: Token damaged, or made by a request with another parent or filter.
        """
        if request.page_size < 0:
            raise InvalidArgument(
                f"page_size {request.page_size} is negative",
                fields={"page_size": f"send 0 for {size}, or 1 to {size_max}"},
            )
        query = _digest(request)
        after = _decode(request.page_token, query) if request.page_token else None
        return cls(min(request.page_size or size, size_max), query, after)

    def fetch(
        self, tx: Tx, select: Select[Any], by: Sequence[ColumnElement[Any]], descending: bool = False
    ) -> tuple[list[Row[Any]], str]:
        """The rows of this page, and the token of the next: empty when this is the last.

        Args:
            select: The whole query without order and limit. It must select the columns of `by`.
            by: Order of the list. Together they are unique, else rows at a page's edge are lost; none is null.
            descending: Newest first.
        """
        if self.after is not None:
            kinds = [column.type.python_type for column in by]
            if len(self.after) != len(by) or not all(map(isinstance, self.after, kinds)):
                raise _invalid()
            seen = tuple_(
                *(literal(value, column.type) for value, column in zip(self.after, by, strict=True))
            )
            select = select.where(tuple_(*by) < seen if descending else tuple_(*by) > seen)
        select = select.order_by(*(column.desc() if descending else column.asc() for column in by))
        rows = list(tx.execute(select.limit(self.size + 1)))
        if len(rows) <= self.size:
            return rows, ""
        last = rows[self.size - 1]._mapping
        return rows[: self.size], encode([last[column] for column in by], self.query)

    def cut(self, items: Sequence[T], key: Callable[[T], str]) -> tuple[list[T], str]:
        """The items of this page, of a list that lies in no table, and the token of the next.

        Args:
            items: All of them, in the order of their keys.
        """
        if self.after is not None and not (len(self.after) == 1 and isinstance(self.after[0], str)):
            raise _invalid()
        rest = [item for item in items if self.after is None or key(item) > self.after[0]]
        found = rest[: self.size]
        return found, encode([key(found[-1])], self.query) if len(rest) > self.size else ""

    def number(self) -> int:
        """The key of the last row seen, of a list by one number that lies in no table; 0 at the start."""
        if self.after is None:
            return 0
        if len(self.after) != 1 or not isinstance(self.after[0], int) or not 0 <= self.after[0] < 2**63:
            raise _invalid()
        return self.after[0]

    def token(self, number: int) -> str:
        """What continues such a list after a row."""
        return encode([number], self.query)


def _digest(request: ListRequest) -> str:
    message = cast(Message, request)
    bare = type(message)()
    bare.CopyFrom(message)
    bare.ClearField("page_size")
    bare.ClearField("page_token")
    name = message.DESCRIPTOR.full_name.encode()
    return hashlib.sha256(name + b"\0" + bare.SerializeToString(deterministic=True)).hexdigest()[:16]


def encode(key: list[Any], query: str) -> str:
    values = [{"time": value.isoformat()} if isinstance(value, datetime) else value for value in key]
    body = json.dumps([query, values], separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(_checksum(body) + body).decode().rstrip("=")


def _decode(token: str, query: str) -> tuple[Any, ...]:
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        checksum, body = raw[:_CHECKSUM_BYTES], raw[_CHECKSUM_BYTES:]
        if checksum != _checksum(body):
            raise _invalid()
        of_query, values = json.loads(body)
        if of_query != query:
            raise _invalid()
        return tuple(_key_value(value) for value in values)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        raise _invalid() from None


def _key_value(value: Any) -> str | float | datetime:
    """One column of a key. Another kind of value would fail in the database, and as a fault of ours."""
    if isinstance(value, dict):
        return datetime.fromisoformat(value["time"]).astimezone(UTC)
    in_range = not isinstance(value, int) or -(2**63) <= value < 2**63
    if not isinstance(value, str | int | float) or not in_range:
        raise ValueError(f"{value!r} is no part of a key")
    return value


def _checksum(body: bytes) -> bytes:
    # Against damage and editing by hand. No secret is needed: a forged key only moves within what the caller may list.
    return hashlib.blake2b(body, digest_size=_CHECKSUM_BYTES, person=b"aios-page").digest()


def _invalid() -> PageTokenInvalid:
    return PageTokenInvalid(
        "page_token is damaged or belongs to another query",
        fields={
            "page_token": "repeat the request that gave the token unchanged, or leave it empty to start again"
        },
    )
