"""Events as messages: CloudEvents 1.0 in NATS binary mode, attributes in `ce-*` headers, payload as JSON.

Source: cloudevents.io, NATS protocol binding 1.0.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from aios.records.events import Event

CONTENT_TYPE = "application/json"
# The message as a whole stays below the server's max_payload, with room for headers.
DATA_BYTES_MAX = 1_000_000
# Dots, wildcards and spaces have a meaning in subjects.
_NOT_IN_TOKEN = re.compile(r"[^A-Za-z0-9_/-]")
_TYPE = re.compile(r"aios\.(?P<domain>[^.]+)\.(?P<noun>[^.]+)\.(?P<type>.+)")


class Message(NamedTuple):
    """What goes to the bus."""

    subject: str
    headers: dict[str, str]
    data: bytes


class NotAnEvent(ValueError):
    """A message that no AIOS service sent, or a damaged one."""


def subject(
    domain: str, noun: str = "*", project: str = "*", resource_id: str = "*", event: str = "*"
) -> str:
    """`aios.<domain>.<noun>.<project>.<id>.<event>`; what is not given matches everything."""
    parts = (domain, noun, project, resource_id, event)
    return "aios." + ".".join(part if part == "*" else _NOT_IN_TOKEN.sub("_", part) or "_" for part in parts)


def encode(event: Event) -> Message:
    """The message that carries an event. A payload too large for the bus is left out: consumers read the resource."""
    data = json.dumps(event.payload, separators=(",", ":")).encode()
    headers = {
        "ce-specversion": "1.0",
        "ce-id": event.id,
        "ce-type": f"aios.{event.domain}.{event.noun}.{event.type}",
        "ce-source": f"/aios/{event.domain}/projects/{event.project}",
        "ce-subject": event.resource_id,
        "ce-time": event.time.isoformat(),
        # Extension: position in the source's log, since delivery may reorder.
        "ce-revision": str(event.revision),
        "content-type": CONTENT_TYPE,
        # JetStream drops a second publish of the same id.
        "Nats-Msg-Id": event.id,
    }
    if event.traceparent:
        headers["traceparent"] = event.traceparent
    to = subject(event.domain, event.noun, event.project, event.resource_id, event.type)
    return Message(to, headers, data if len(data) <= DATA_BYTES_MAX else b"{}")


def decode(headers: Mapping[str, str] | None, data: bytes) -> Event:
    """The event in a message.

    Raises:
        NotAnEvent: An attribute is missing or the payload is no JSON object.
    """
    try:
        headers = headers or {}
        kind = _TYPE.fullmatch(headers["ce-type"])
        _, slash, project = headers["ce-source"].rpartition("/projects/")
        payload = json.loads(data)
        if kind is None or not slash or not isinstance(payload, dict):
            raise ValueError("type, source or payload has another form")
        return Event(
            id=headers["ce-id"],
            revision=int(headers["ce-revision"]),
            project=project,
            resource_id=headers["ce-subject"],
            payload=payload,
            traceparent=headers.get("traceparent", ""),
            time=datetime.fromisoformat(headers["ce-time"]).astimezone(UTC),
            **kind.groupdict(),
        )
    except (KeyError, ValueError) as error:
        raise NotAnEvent(f"not an AIOS event: {error!r}") from error
