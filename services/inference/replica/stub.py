"""What every `model.py` of ours needs: it is copied beside it and imported as `stub`, in Triton's stub process.

Runs in the model environment and imports nothing of the platform. For each traced request the compute span goes to the
supervisor as part of one JSON datagram; a request never waits for its trace.
"""

import contextlib
import json
import os
import re
import secrets
import socket
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

SPAN_SOCKET = "AIOS_SPAN_SOCKET"
"""Names the supervisor's datagram socket, relative to the working directory."""

LIFELINE = "AIOS_LIFELINE_FD"
"""`{fd}:{path}`: read end of a pipe whose write end only the supervisor holds, prefix of our shared memory."""

SPANS_PER_DATAGRAM_MAX = 256
"""~25 KiB: well below a socket's default send buffer of 208 KiB."""

ERROR_CHARACTERS_MAX = 500

Parent = tuple[str, str]
"""Trace id and span id."""

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


class Spans:
    """Hands the compute spans of traced requests to the supervisor; drops them when it does not keep up."""

    def __init__(self, attributes: Mapping[str, str]) -> None:
        self._attributes = dict(attributes)
        self._path = os.environ.get(SPAN_SOCKET, "")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def send(self, found: Iterable[Parent | None], began: int, ended: int, rows: int, failure: str) -> None:
        """One datagram for the requests of one batch, by their parents. Times are nanoseconds since the epoch."""
        parents = [parent for parent in found if parent]
        for start in range(0, len(parents), SPANS_PER_DATAGRAM_MAX):
            datagram = {
                "start": began,
                "end": ended,
                "attributes": {**self._attributes, "aios.batch.rows": rows},
                "error": failure[:ERROR_CHARACTERS_MAX],
                "spans": [
                    [trace_id, parent_id, secrets.token_hex(8)]
                    for trace_id, parent_id in parents[start : start + SPANS_PER_DATAGRAM_MAX]
                ],
            }
            with contextlib.suppress(OSError):
                self._socket.sendto(json.dumps(datagram).encode(), self._path)


def sampled_parent(request: Any) -> Parent | None:
    """Trace id and parent span id, if the request came with a sampled W3C trace context."""
    for key, value in json.loads(request.parameters() or "{}").items():
        if key.lower() == "traceparent" and isinstance(value, str):
            match = _TRACEPARENT.fullmatch(value)
            if match and int(match[3], 16) & 1:
                return match[1], match[2]
    return None


def die_with_supervisor() -> None:
    """End this process, and what it shares, when the supervisor was killed. Triton's stubs stay otherwise."""
    descriptor, _, shared = os.environ.get(LIFELINE, "").partition(":")
    if not descriptor:
        return

    def wait() -> None:
        while os.read(int(descriptor), 1):
            pass
        for path in Path(shared).parent.glob(f"{Path(shared).name}*"):
            path.unlink(missing_ok=True)
        os._exit(1)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()
