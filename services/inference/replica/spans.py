"""Compute spans of the model, received from Triton's process and exported as ours.

The model environment has no OpenTelemetry, and Triton's own crashes under load: `model.py` sends what
it measured as JSON datagrams, and here they become spans of the service `triton`.
"""

import asyncio
import json
import logging
import os
import re
import socket
from pathlib import Path
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

SPAN_SOCKET = "AIOS_SPAN_SOCKET"
"""Tells `model.py` where to send datagrams."""

SCOPE = InstrumentationScope("aios.model")
_HEX = re.compile(r"[0-9a-f]+")
_log = logging.getLogger(__name__)


class SpanReceiver(asyncio.DatagramProtocol):
    """Turns datagrams into spans. What is not well-formed is dropped: a trace is never worth a replica."""

    def __init__(self, processor: SpanProcessor, resource: Resource) -> None:
        self._processor = processor
        self._resource = resource
        self._complained = False

    def datagram_received(self, data: bytes, addr: Any) -> None:
        try:
            spans = parse(data, self._resource)
        except (ValueError, KeyError, TypeError) as error:
            if not self._complained:
                _log.warning("spans of the model are malformed and dropped: %s", error)
            self._complained = True
            return
        for span in spans:
            self._processor.on_end(span)


async def receive(path: Path, processor: SpanProcessor, resource: Resource) -> asyncio.DatagramTransport:
    """Receive datagrams at `path` until the transport is closed. Only this user may send."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listening.setblocking(False)
    directory = os.open(path.parent, os.O_DIRECTORY)
    try:
        # A socket's path has 107 bytes at most, and this one may be deep: bind relative to its directory.
        listening.bind(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)
    path.chmod(0o600)
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: SpanReceiver(processor, resource), sock=listening
    )
    return transport


def parse(data: bytes, resource: Resource) -> list[ReadableSpan]:
    """The spans of one datagram: one for each traced request of a batch, which ran as one.

    Raises:
        ValueError, KeyError, TypeError: not what `model.py` sends.
    """
    try:
        batch = json.loads(data)
    except RecursionError:
        raise ValueError("nested too deep") from None
    began, ended, attributes = batch["start"], batch["end"], batch["attributes"]
    if not (isinstance(began, int) and isinstance(ended, int) and isinstance(attributes, dict)):
        raise ValueError("start and end are nanoseconds, attributes a table")
    if not all(isinstance(value, str | int | float | bool) for value in attributes.values()):
        raise ValueError("attributes must be scalars")
    status = Status(StatusCode.ERROR, batch["error"]) if batch["error"] else Status(StatusCode.UNSET)
    return [
        ReadableSpan(
            name="model.compute",
            context=_context(trace_id, span_id, remote=False),
            parent=_context(trace_id, parent_id, remote=True),
            resource=resource,
            attributes=attributes,
            kind=SpanKind.INTERNAL,
            status=status,
            start_time=began,
            end_time=ended,
            instrumentation_scope=SCOPE,
        )
        for trace_id, parent_id, span_id in batch["spans"]
    ]


def _context(trace_id: str, span_id: str, *, remote: bool) -> SpanContext:
    return SpanContext(
        _identifier(trace_id, 32), _identifier(span_id, 16), remote, TraceFlags(TraceFlags.SAMPLED)
    )


def _identifier(text: str, digits: int) -> int:
    if len(text) != digits or not _HEX.fullmatch(text) or not int(text, 16):
        raise ValueError(f"{text!r} is no identifier of {digits} hexadecimal digits")
    return int(text, 16)
