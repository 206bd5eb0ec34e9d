"""One answer per request: a create with a `request_id` takes effect once, however often it is sent."""

import hashlib
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TypeVar

from google.protobuf.message import Message
from sqlalchemy import delete, insert, select

from aios.errors import InvalidArgument
from aios.records.tables import idempotency
from aios.records.tx import Tx
from aios.runtime.context import principal

M = TypeVar("M", bound=Message)

# How long a replay returns the first response: what the contract promises.
WINDOW = timedelta(hours=24)


class RequestIdReused(InvalidArgument):
    """The request_id was used for a different request. Send a new one with a new request."""

    reason = "REQUEST_ID_REUSED"


def answer(
    tx: Tx, request: Message, fn: Callable[[Tx], M], response_type: Callable[[], M], now: datetime
) -> M:
    """The stored response of an earlier identical request, else `fn`'s, stored with its effect.

    Only success is stored: what failed changed nothing and may be tried again.
    """
    request_id = _request_id(request)
    if not request_id:
        return fn(tx)
    key = {
        "subject": principal().subject,
        "request_type": request.DESCRIPTOR.full_name,
        "request_id": request_id,
    }
    digest = _digest(request)
    stored = tx.execute(select(idempotency).filter_by(**key)).one_or_none()
    if stored is not None and stored.time > now - WINDOW:
        if stored.request_hash != digest:
            raise RequestIdReused(
                f"request_id {request_id} was used for a different request",
                fields={
                    "request_id": "use a new UUID for a new request, or repeat the first request unchanged"
                },
                request_id=request_id,
            )
        response = response_type()
        response.ParseFromString(stored.response)
        return response
    if stored is not None:
        tx.execute(delete(idempotency).filter_by(**key))
    response = fn(tx)
    row = key | {"request_hash": digest, "response": response.SerializeToString(), "time": now}
    tx.execute(insert(idempotency).values(row))
    return response


def prune(tx: Tx, now: datetime) -> None:
    """Forget the responses that no replay can ask for any more."""
    tx.execute(delete(idempotency).where(idempotency.c.time <= now - WINDOW))


def _request_id(request: Message) -> str:
    text: str = request.request_id  # type: ignore[attr-defined]  # every create has this field
    if not text:
        return ""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise InvalidArgument(
            "request_id is not a UUID",
            fields={"request_id": "send a UUID such as 7b1f2d4e-8c35-4f0a-9d8e-2a6c1b3e5f70"},
        ) from None


def _digest(request: Message) -> bytes:
    bare = type(request)()
    bare.CopyFrom(request)
    bare.ClearField("request_id")
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).digest()
