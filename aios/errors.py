"""The error catalogue: every failure a caller can meet is a class here or a subclass beside the rule that raises it.

A class fixes the canonical code and a stable reason; the message says what to change. The runtime turns these into
`google.rpc.Status` on the way out and back into the same classes in a client, so code on both sides of the wire
catches the same exceptions. Pure: nothing here knows gRPC.
"""

from collections.abc import Mapping
from datetime import timedelta
from enum import Enum
from typing import ClassVar


class Code(Enum):
    """Canonical codes, by their `google.rpc.Code` number."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


BY_REASON: dict[tuple[Code, str], "type[AiosError]"] = {}
"""The classes of this file: a client raises the very class that the service raised, or its base if that is a
service's own."""


class AiosError(Exception):
    """Root of the catalogue.

    Args:
        message: For people; says what to change.
        fields: Request field path to what is wrong with it.
        retry_after: When trying again can help.
        metadata: Every variable of the message, for programs.
    """

    code: ClassVar[Code] = Code.INTERNAL
    reason: str = "INTERNAL"

    def __init_subclass__(cls) -> None:
        if cls.__module__ == __name__:
            BY_REASON[cls.code, cls.reason] = cls

    def __init__(
        self,
        message: str,
        *,
        fields: Mapping[str, str] | None = None,
        retry_after: timedelta | None = None,
        reason: str | None = None,
        **metadata: str,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.fields = dict(fields or {})
        self.retry_after = retry_after
        self.metadata = metadata
        if reason is not None:
            self.reason = reason


class InvalidArgument(AiosError):
    """The request is wrong whatever the state of the system. Retrying cannot help."""

    code, reason = Code.INVALID_ARGUMENT, "INVALID_ARGUMENT"

    @classmethod
    def of(cls, field: str, problem: str) -> "InvalidArgument":
        """One wrong field: the message names it too."""
        return cls.of_all({field: problem})

    @classmethod
    def of_all(cls, wrong: Mapping[str, str]) -> "InvalidArgument":
        """Every wrong field, one at least; the message names the first."""
        field, problem = next(iter(wrong.items()))
        return cls(f"{field}: {problem}", fields=wrong)


class NotFound(AiosError):
    """No such resource, or the caller may not know of it."""

    code, reason = Code.NOT_FOUND, "NOT_FOUND"


class AlreadyExists(AiosError):
    """The name is taken."""

    code, reason = Code.ALREADY_EXISTS, "ALREADY_EXISTS"


class FailedPrecondition(AiosError):
    """Right request, wrong state: something else must happen first."""

    code, reason = Code.FAILED_PRECONDITION, "FAILED_PRECONDITION"


class Aborted(AiosError):
    """Lost against a concurrent change: read again, then decide."""

    code, reason = Code.ABORTED, "ABORTED"


class StaleEpoch(Aborted):
    """A newer attempt owns this job: the caller must stop."""

    reason = "STALE_EPOCH"


class OutOfRange(AiosError):
    """The position asked for is no longer kept, or never was."""

    code, reason = Code.OUT_OF_RANGE, "OUT_OF_RANGE"


class Unauthenticated(AiosError):
    """No valid token."""

    code, reason = Code.UNAUTHENTICATED, "UNAUTHENTICATED"


class PermissionDenied(AiosError):
    """The token's role may not do this."""

    code, reason = Code.PERMISSION_DENIED, "PERMISSION_DENIED"


class ResourceExhausted(AiosError):
    """A limit is reached; `retry_after` says when to come back."""

    code, reason = Code.RESOURCE_EXHAUSTED, "RESOURCE_EXHAUSTED"


class Unavailable(AiosError):
    """Cannot be reached or is not ready. Safe to retry where the call is."""

    code, reason = Code.UNAVAILABLE, "UNAVAILABLE"


class DeadlineExceeded(AiosError):
    """Took longer than the caller allowed. Whether it took effect is unknown."""

    code, reason = Code.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"


class Unimplemented(AiosError):
    """Not built."""

    code, reason = Code.UNIMPLEMENTED, "UNIMPLEMENTED"


class Cancelled(AiosError):
    """The caller went away."""

    code, reason = Code.CANCELLED, "CANCELLED"


class Internal(AiosError):
    """A fault of ours. The trace id finds it in the logs."""


class DataLoss(AiosError):
    """Stored bytes are not what was stored."""

    code, reason = Code.DATA_LOSS, "DATA_LOSS"


def error_class(code: Code, reason: str) -> type[AiosError]:
    """The class of an error that arrived: the one with its reason where it is known here, else that of its code."""
    return BY_REASON.get((code, reason)) or BY_REASON.get((code, code.name)) or Internal
