"""The output of jobs: one append-only file per attempt, written by offset, readable while it grows.

A piece is on disk before it is acknowledged, and a piece that comes again changes nothing. The file is the exact
output from its first byte; beside it an empty `.end` file says that nothing follows.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from aios.errors import NotFound, ResourceExhausted
from aios.names import JobName
from services.scheduler.attempts import AttemptState
from services.scheduler.jobs import FINAL, Job

PIECE_BYTES = 256 * 1024  # of a response: well below a message, large enough to be quick
TAIL_SECONDS = 10.0  # how long a reader waits for the last bytes of a job that has ended
IDLE_SECONDS = 5.0  # a follower looks again at least so often, whatever it missed
OPEN_MAX = 4096  # remembered sizes, about 2 MiB; those of ended logs are read from disk again


class LogNotFound(NotFound):
    """The job has no such attempt yet."""

    reason = "LOG_NOT_FOUND"


class LogsFull(ResourceExhausted):
    """The disk that keeps job logs is full. Free space; agents send again by themselves."""

    reason = "LOGS_FULL"


class Piece(NamedTuple):
    """Some output and where it belongs."""

    epoch: int
    offset: int
    data: bytes


@dataclass
class _Log:
    path: Path
    size: int
    ended: bool
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Logs:
    """The files, and who waits for them to grow. All sizes in bytes."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._open: dict[tuple[JobName, int, int], _Log] = {}

    async def append(
        self, job: JobName, epoch: int, offset: int, data: bytes, *, end: bool, rank: int = 0
    ) -> int:
        """Store a piece and return how much is stored, durably, from the first byte.

        A piece beyond the stored end is not kept: the answer tells the sender where to go on.

        Args:
            rank: Whose output it is, of a gang.

        Raises:
            LogsFull: nothing of the piece was kept.
        """
        log = self._log(job, epoch, rank)
        async with log.lock:
            new = data[log.size - offset :] if offset <= log.size else b""
            complete = offset + len(data) <= log.size + len(new)
            ends = end and complete and not log.ended
            if new or ends:
                await asyncio.to_thread(_store, log.path, log.size, new, ends)
                log.size += len(new)
                log.ended = log.ended or ends
                log.changed.set()
                log.changed = asyncio.Event()
            return log.size

    async def read(
        self,
        job: JobName,
        epoch: int,
        offset: int,
        *,
        rank: int = 0,
        follow: bool,
        current: Callable[[], Awaitable[Job]],
        changed: Callable[[], Awaitable[object]],
    ) -> AsyncIterator[Piece]:
        """Output from `offset` on; negative counts from the end.

        Args:
            epoch: Attempt to read; 0 begins with the newest and follows through restarts.
            rank: Whose output, of a gang.
            current: The job as it is now.
            changed: Returns when some job has changed since this was called.

        Raises:
            LogNotFound: there is no such attempt.
        """
        now, clock = await current(), asyncio.get_running_loop().time
        if epoch > now.epoch:
            raise LogNotFound(f"{job} has had {now.epoch} attempts, not {epoch}.", name=str(job))
        at, position = epoch or now.epoch, offset
        give_up: float | None = None
        while True:
            log = self._log(job, at, rank)
            # Before looking: what comes while we look is not missed.
            waiting = [asyncio.ensure_future(changed()), asyncio.ensure_future(log.changed.wait())]
            try:
                position = max(0, log.size + position) if position < 0 else position
                while position < log.size:
                    data = await asyncio.to_thread(_read, log.path, position, log.size)
                    yield Piece(at, position, data)
                    position += len(data)
                if not follow:
                    return
                now = await current()
                if now.epoch > at and epoch == 0:
                    at, position = at + 1, 0
                    continue
                over = now.state in FINAL or now.epoch > at
                if over and (at == 0 or log.ended or _is_lost(now)):
                    return
                if over:
                    give_up = give_up or clock() + TAIL_SECONDS
                    if clock() > give_up:
                        return
                await asyncio.wait(waiting, timeout=IDLE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in waiting:
                    each.cancel()

    def _log(self, job: JobName, epoch: int, rank: int) -> _Log:
        log = self._open.get((job, epoch, rank))
        if log is None:
            if len(self._open) >= OPEN_MAX:
                self._open = {key: each for key, each in self._open.items() if not each.ended}
            path = self._root / job.project / job.job / (f"{epoch}.{rank}.log" if rank else f"{epoch}.log")
            size = path.stat().st_size if path.exists() else 0
            log = self._open[job, epoch, rank] = _Log(path, size, _end_of(path).exists())
        return log


def _store(path: Path, size: int, data: bytes, end: bool) -> None:
    fresh = not path.exists()
    if fresh:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            _write_at(descriptor, size, data)
            if end:
                _end_of(path).touch(mode=0o600)
        finally:
            os.close(descriptor)
        if fresh or end:
            _sync_directory(path.parent)
    except OSError as error:
        raise LogsFull(
            f"The log could not be stored: {error.strerror}.", retry_after=timedelta(seconds=5)
        ) from error


def _write_at(descriptor: int, size: int, data: bytes) -> None:
    try:
        written = 0
        while written < len(data):
            written += os.pwrite(descriptor, data[written:], size + written)
        os.fdatasync(descriptor)
    except OSError:
        os.ftruncate(descriptor, size)
        raise


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path, start: int, end: int) -> bytes:
    with path.open("rb") as file:
        return os.pread(file.fileno(), min(PIECE_BYTES, end - start), start)


def _end_of(path: Path) -> Path:
    return path.with_suffix(".end")


def _is_lost(job: Job) -> bool:
    return job.attempt is not None and job.attempt.state is AttemptState.LOST
