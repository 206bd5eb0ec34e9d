"""What a function inside a transaction works with."""

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from sqlalchemy import Connection, CursorResult, Executable, Integer, bindparam, insert, select, update

from aios.records.tables import events, feed
from aios.runtime.clock import Clock
from aios.runtime.telemetry import current_traceparent


class Happened(NamedTuple):
    """One event to record: see `Tx.emit`."""

    project: str
    resource_id: str
    event: str
    payload: Message | Mapping[str, Any]
    traceparent: str
    """W3C trace context that it belongs to; empty without one."""


class Tx:
    """One transaction. Valid only inside the function that it was given to; use it from no other thread."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    def execute(self, statement: Executable, parameters: Any = None) -> CursorResult[Any]:
        """Run one SQLAlchemy Core statement; `parameters` as in `Connection.execute`."""
        return self._connection.execute(statement, parameters)

    def emit(
        self, noun: str, project: str, resource_id: str, event: str, payload: Message | Mapping[str, Any]
    ) -> int:
        """Record that something happened, in the same commit as the change itself.

        Watchers see it right after the commit; the bus gets it soon after, also across a crash.

        Args:
            payload: The resource as it is after the change.

        Returns:
            The revision of the event.
        """
        return self.emit_all(noun, [Happened(project, resource_id, event, payload, current_traceparent())])

    def emit_all(self, noun: str, happened: Sequence["Happened"]) -> int:
        """`emit` for many at once, in their order, for little more than the cost of one.

        Returns:
            The revision of the last.
        """
        last: int = self.execute(_ADVANCE, {"by": len(happened)}).scalar_one()
        rows = [
            {
                "revision": last - len(happened) + n,
                "id": str(uuid.uuid4()),
                "noun": noun,
                "project": each.project,
                "resource_id": each.resource_id,
                "type": each.event,
                "payload": MessageToDict(each.payload, preserving_proto_field_name=True)
                if isinstance(each.payload, Message)
                else dict(each.payload),
                "traceparent": each.traceparent,
                "time": self.now(),
            }
            for n, each in enumerate(happened, 1)
        ]
        self.execute(_INSERT, rows)
        return last

    def now(self) -> datetime:
        """UTC, by the database's clock."""
        return self._clock.now()

    def revision(self) -> int:
        """Newest revision that this transaction sees. A List that returns it lets a Watch go on without a gap."""
        value: int = self.execute(_REVISION).scalar_one()
        return value


# Made once: building a statement costs more than running it.
_ADVANCE = (
    update(feed).values(revision=feed.c.revision + bindparam("by", type_=Integer)).returning(feed.c.revision)
)
_INSERT = insert(events)
_REVISION = select(feed.c.revision)
