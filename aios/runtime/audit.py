"""What a server tells of each call to whoever keeps account of them: who wanted what, from where, and how it ended."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from aios.runtime.context import Principal


@dataclass(frozen=True)
class Heard:
    """One call that has been answered, or will be once this was heard."""

    method: str
    """Full path: `/aios.data.v1.DataService/ListDownloads`."""
    permission: str
    principal: Principal | None
    """None for a caller without a valid token."""
    resource: str
    """Name that the request is about; empty where it was refused before it was read."""
    source: str
    """Address of the caller, as the door states it, or of the connection."""
    code: str
    """Canonical code of the answer."""
    reason: str
    """Of a refusal."""


Listener = Callable[[Heard], Awaitable[None]]
"""Hears of every call that is no stream. The answer waits for it; what it raises is the answer instead."""


def source_of(metadata: Mapping[str, object], peer: str) -> str:
    """Where a call came from: the door adds it to what it passes on, and nobody else reaches the services."""
    forwarded = str(metadata.get("x-forwarded-for", "")).rpartition(",")[2].strip()
    return forwarded or peer.removeprefix("ipv4:").removeprefix("ipv6:")
