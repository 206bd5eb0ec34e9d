"""Watch RPCs over a service's log of changes. Source: the etcd watch contract; google.aip.dev has none."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeVar

from aios.errors import ResourceExhausted
from aios.names import ANY_PROJECT
from aios.records import Event, Feed

PROGRESS_SECONDS = 10.0  # an empty message keeps the cursor fresh and finds dead peers
BATCH_EVENTS_MAX = 50  # one message, which a reader that has stopped reading may hold: mostly below 100 KiB
SEND_SECONDS_MAX = 30.0  # a reader that takes longer for one message is gone or too slow

R = TypeVar("R")


async def serve_watch(
    feed: Feed,
    noun: str,
    project: str,
    start_revision: int,
    respond: Callable[[Sequence[Event], int], R],
) -> AsyncIterator[R]:
    """Every change of one kind of resource after `start_revision` (0: from now), in order, for as long as it is read.

    Nothing is buffered for the caller: the log itself is the buffer, so a slow reader costs one message, which many
    readers may share, and what flow control lets onto the way.

    Args:
        project: A project id, or `-` for every project.
        respond: Makes a response from a batch of events (maybe empty) and the revision it reaches.

    Raises:
        OutOfRange: the start is no longer kept.
        ResourceExhausted: the reader is too slow.
    """
    where = None if project == ANY_PROJECT else project
    cursor = start_revision or feed.current_revision()
    await feed.read(noun, where, cursor, 1)  # a start that is not kept is refused before anything is sent
    yield respond([], cursor)
    while True:
        changes = await feed.read(noun, where, cursor, BATCH_EVENTS_MAX)
        if changes.events:
            sent = asyncio.get_running_loop().time()
            yield changes.told(respond)
            if asyncio.get_running_loop().time() - sent > SEND_SECONDS_MAX:
                raise ResourceExhausted("This watch is read too slowly: watch again from the last revision.")
        waited = changes.revision == cursor and not changes.events
        cursor = changes.revision
        if waited:
            try:
                async with asyncio.timeout(PROGRESS_SECONDS):
                    await feed.wait(cursor)
            except TimeoutError:
                yield respond([], cursor)
