"""Agents that are connected now, and what was said to each on its present stream."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from aios.errors import Aborted
from aios.scheduler.v1 import agent_service_pb2

OUTBOX_MAX = 4096  # messages; far above what one node can hold, so a full box means a dead peer


class SessionEnded(Aborted):
    """This stream of the agent is over: connect and register again."""

    reason = "SESSION_ENDED"


class Session:
    """One stream to one agent.

    A stream delivers in order or breaks, so each thing is said once on it; after a reconnect it is said again.
    """

    def __init__(self, node: str) -> None:
        self.node = node
        self.said: set[tuple[str, str, int, int]] = set()
        """(`assignment` or `stop`, job, epoch, rank)."""
        self.knows = False
        """Whether all that its node holds was said on it; what comes after that is said as it comes."""
        self.ended: Exception | None = None
        self._outbox: asyncio.Queue[agent_service_pb2.ConnectResponse | None] = asyncio.Queue(OUTBOX_MAX)

    def send(self, message: agent_service_pb2.ConnectResponse) -> None:
        """Queue a message. After the end this does nothing."""
        if self.ended is None:
            try:
                self._outbox.put_nowait(message)
            except asyncio.QueueFull:
                self.end(SessionEnded("The agent does not read what it is sent."))

    def end(self, error: Exception | None) -> None:
        """Close the stream with an error; None when the agent hung up."""
        if self.ended is None:
            self.ended = error or SessionEnded("The agent hung up.")
            while self._outbox.full():
                self._outbox.get_nowait()
            self._outbox.put_nowait(None)

    async def outgoing(self) -> AsyncIterator[agent_service_pb2.ConnectResponse]:
        """What to send, until the end.

        Raises:
            Exception: what the session ended with.
        """
        while (message := await self._outbox.get()) is not None:
            yield message
        assert self.ended is not None
        raise self.ended


class Sessions:
    """The present stream of each node: at most one."""

    def __init__(self) -> None:
        self._by_node: dict[str, Session] = {}

    @contextmanager
    def opened(self, session: Session) -> Iterator[None]:
        """Make this the node's stream; an older one ends with ABORTED."""
        self.close(session.node, "The agent of this node has connected again.")
        self._by_node[session.node] = session
        try:
            yield
        finally:
            session.end(None)
            if self._by_node.get(session.node) is session:
                del self._by_node[session.node]

    def close(self, node: str, why: str) -> None:
        """End the stream of a node, if it has one."""
        session = self._by_node.pop(node, None)
        if session is not None:
            session.end(SessionEnded(why))

    def current(self) -> dict[str, Session]:
        """By node, as of now."""
        return dict(self._by_node)
