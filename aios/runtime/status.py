"""The catalogue on the wire: `AiosError` to and from `google.rpc.Status`.

Source: google.aip.dev/193.
"""

from datetime import timedelta
from itertools import islice
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from aios.errors import AiosError, Code, error_class

DOMAIN = "aios"
GRPC_CODES = {code.value[0]: code for code in grpc.StatusCode}


MESSAGE_CHARS_MAX = 1000  # percent-encoded, a character may take three bytes and more
DETAIL_CHARS_MAX = 200
FIELDS_MAX = 12  # mistakes told at once over gRPC


def to_status(error: AiosError) -> status_pb2.Status:
    """The answer for an error: all of it, or as much as fits into the 8 KiB of headers that clients of gRPC read."""
    status = status_pb2.Status(code=error.code.value, message=_clipped(error.message, MESSAGE_CHARS_MAX))
    details: list[object] = [
        error_details_pb2.ErrorInfo(
            reason=error.reason,
            domain=DOMAIN,
            metadata={key: _clipped(value, DETAIL_CHARS_MAX) for key, value in error.metadata.items()},
        )
    ]
    if error.fields:
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(
                        field=_clipped(field, DETAIL_CHARS_MAX),
                        description=_clipped(problem, DETAIL_CHARS_MAX),
                    )
                    for field, problem in islice(error.fields.items(), FIELDS_MAX)
                ]
            )
        )
    if error.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromTimedelta(error.retry_after)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)  # type: ignore[arg-type]
        status.details.append(packed)
    return status


def from_status(status: status_pb2.Status) -> AiosError:
    """The same error in a client, as the class of its code."""
    code = Code(status.code) if status.code in code_pb2.Code.values() else Code.UNKNOWN
    reason, metadata, fields, retry_after = code.name, {}, {}, None
    for detail in status.details:
        if _is(detail, error_details_pb2.ErrorInfo):
            info = error_details_pb2.ErrorInfo()
            detail.Unpack(info)
            reason, metadata = info.reason, dict(info.metadata)
        elif _is(detail, error_details_pb2.BadRequest):
            bad = error_details_pb2.BadRequest()
            detail.Unpack(bad)
            fields = {violation.field: violation.description for violation in bad.field_violations}
        elif _is(detail, error_details_pb2.RetryInfo):
            retry = error_details_pb2.RetryInfo()
            detail.Unpack(retry)
            retry_after = retry.retry_delay.ToTimedelta()
    error = error_class(code, reason)(status.message, fields=fields, retry_after=retry_after, reason=reason)
    error.metadata = metadata
    return error


def from_rpc_error(error: grpc.RpcError) -> AiosError:
    """The error behind a failed call, whoever made it: our server, another one, or the library itself."""
    call: Any = error  # the library raises one object that is both
    status = rpc_status.from_call(call) if call.trailing_metadata() is not None else None
    if status is not None:
        return from_status(status)
    code = Code[call.code().name]
    return error_class(code, code.name)(call.details() or code.name, reason=code.name)


def was_answered(error: grpc.RpcError) -> bool:
    """Whether a service answered, and not the library or a proxy in the place of one that cannot be reached."""
    call: Any = error
    return bool(call.trailing_metadata()) and rpc_status.from_call(call) is not None


def _is(detail: any_pb2.Any, kind: type[Message]) -> bool:
    return detail.type_url.rpartition("/")[2] == kind.DESCRIPTOR.full_name


RETRY_SOON = timedelta(seconds=1)
"""What a shed call is told to wait."""


def _clipped(text: str, chars: int) -> str:
    return text if len(text) <= chars else f"{text[: chars - 1]}…"
