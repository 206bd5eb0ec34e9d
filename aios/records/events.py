"""What happened to a resource, as the log keeps it and the bus carries it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class Event:
    """One change. The same `id` may reach a consumer more than once; its effect happens once."""

    id: str
    """UUID: the CloudEvents id and the Nats-Msg-Id."""
    revision: int
    """Position in the owning service's log: a greater one is newer."""
    domain: str
    """Owning service: `scheduler`, `data`, `trainer`, `inference`, `identity`."""
    noun: str
    """Kind of resource, singular: `job`."""
    project: str
    resource_id: str
    type: str
    """What happened: `created`, `running`, ..."""
    payload: Mapping[str, Any]
    """The resource after the change, as JSON with proto field names: `ParseDict(event.payload, job_pb2.Job())`."""
    traceparent: str
    """W3C trace context of the change; empty when it had none."""
    time: datetime
    """UTC."""
