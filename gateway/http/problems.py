"""Errors as `application/problem+json`, with our reason and details beside the standard members.

Source: RFC 9457; google/rpc/code.proto for the mapping of codes to HTTP.
"""

import json
import math
from typing import Any, ClassVar

from aios.errors import AiosError, Code, InvalidArgument, NotFound, Unimplemented

MEDIA_TYPE = "application/problem+json"
DOMAIN = "aios"

STATUS = {
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}


class PathNotFound(NotFound):
    """No rule has this path."""

    reason = "PATH_NOT_FOUND"


class MethodNotAllowed(Unimplemented):
    """The path exists with other HTTP methods; `allow` lists them."""

    reason = "METHOD_NOT_ALLOWED"
    http_status: ClassVar[int] = 405


class BodyTooLarge(InvalidArgument):
    """The body is larger than this door takes."""

    reason = "BODY_TOO_LARGE"
    http_status: ClassVar[int] = 413


class NotJson(InvalidArgument):
    """The body is declared as something else than JSON."""

    reason = "NOT_JSON"
    http_status: ClassVar[int] = 415


def status(error: AiosError) -> int:
    """The HTTP status of an error."""
    return int(getattr(error, "http_status", STATUS[error.code]))


def problem(error: AiosError, trace_id: str) -> dict[str, Any]:
    """The body that describes `error`; `instance` names its trace."""
    body: dict[str, Any] = {
        "type": f"urn:aios:error:{error.reason.lower().replace('_', '-')}",
        "title": error.code.name.replace("_", " ").capitalize(),
        "status": status(error),
        "detail": error.message,
        "instance": f"urn:aios:trace:{trace_id}",
        "code": error.code.name,
        "reason": error.reason,
        "domain": DOMAIN,
        "metadata": error.metadata,
    }
    if error.fields:
        body["fields"] = error.fields
    return body


def headers(error: AiosError) -> dict[str, str]:
    """What an error says in headers: when to come back, how to sign in, which methods there are."""
    said = {"content-type": MEDIA_TYPE, "cache-control": "no-store"}
    if error.retry_after is not None:
        said["retry-after"] = str(math.ceil(error.retry_after.total_seconds()))
    if error.code is Code.UNAUTHENTICATED:
        said["www-authenticate"] = "Bearer"
    if isinstance(error, MethodNotAllowed):
        said["allow"] = error.metadata["allow"]
    return said


def encode(value: Any) -> bytes:
    """Compact JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
