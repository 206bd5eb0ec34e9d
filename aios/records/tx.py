"""What a function inside a transaction works with."""

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from sqlalchemy import Connection, CursorResult, Executable, insert, select, update

from aios.records.tables import events, feed
from aios.runtime.clock import Clock
from aios.runtime.telemetry import current_traceparent


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
        revision: int = self.execute(_ADVANCE).scalar_one()
        body = (
            MessageToDict(payload, preserving_proto_field_name=True)
            if isinstance(payload, Message)
            else dict(payload)
        )
        row = {
            "revision": revision,
            "id": str(uuid.uuid4()),
            "noun": noun,
            "project": project,
            "resource_id": resource_id,
            "type": event,
            "payload": body,
            "traceparent": current_traceparent(),
            "time": self.now(),
        }
        self.execute(_INSERT, row)
        return revision

    def now(self) -> datetime:
        """UTC, by the database's clock."""
        return self._clock.now()

    def revision(self) -> int:
        """Newest revision that this transaction sees. A List that returns it lets a Watch go on without a gap."""
        value: int = self.execute(_REVISION).scalar_one()
        return value


# Made once: building a statement costs more than running it.
_ADVANCE = update(feed).values(revision=feed.c.revision + 1).returning(feed.c.revision)
_INSERT = insert(events)
_REVISION = select(feed.c.revision)
