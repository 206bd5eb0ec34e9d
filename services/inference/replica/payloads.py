"""Kept predictions on their way from the model's process to the object store: one Parquet file for each file of `keep`.

What cannot be stored now stays on disk, and `keep` drops what is too much: no prediction and no replica depends on this.
"""

import asyncio
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Protocol

from aios.errors import AiosError, InvalidArgument
from services.inference.replica.spec import ReplicaSpec

FOLDER = "payloads"
"""Where the model's process writes them, in the working directory that it has."""

LOOK_SECONDS = 1.0
PAUSE_SECONDS_MAX = 30.0
"""Between tries while the services are away."""
LAST_SECONDS = 5.0
"""For what is left when the replica stops."""
_log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """What the model answered to one instance of a request: its class or its number."""

    trace_id: str
    request_id: str
    instance: int
    said: str | float


@dataclass(frozen=True)
class Stored:
    """A file of kept predictions, as it is reported."""

    path: Path
    rows: int
    start: datetime
    end: datetime
    dropped: int
    answers: Sequence[Answer] = ()


class Sink(Protocol):
    """Where files go."""

    async def store_payloads(self, stored: Stored) -> None:
        """Upload a file and add it to the log. May be repeated."""


class Payloads:
    """Fetches what the model's process keeps."""

    def __init__(self, folder: Path, spec: ReplicaSpec, sink: Sink) -> None:
        self._folder = folder
        self._spec = spec
        self._sink = sink

    async def run(self) -> None:
        """Store files until cancelled."""
        pause = LOOK_SECONDS
        while True:
            await asyncio.sleep(pause)
            pause = LOOK_SECONDS if await self._pass_on() else min(2 * pause, PAUSE_SECONDS_MAX)

    async def close(self) -> None:
        """Store what is left, the file that was being written too, as far as the time goes."""
        try:
            async with asyncio.timeout(LAST_SECONDS):
                if (rest := self._folder / "open").exists():
                    rest.rename(self._folder / "99999999-0-0.kept")
                await self._pass_on()
        except TimeoutError:
            _log.warning("kept predictions of the last moments are lost: the services did not answer")

    async def _pass_on(self) -> bool:
        """Whether nothing was left lying."""
        for path in sorted(self._folder.glob("*.kept")):
            try:
                stored = await asyncio.to_thread(_written, path, self._spec)
                if stored is not None:
                    await self._sink.store_payloads(stored)
            except InvalidArgument as error:
                _log.error("kept predictions are refused: %s", error.message)
            except (AiosError, OSError) as error:
                _log.warning("kept predictions wait: %s", error)
                return False
            except Exception:  # noqa: BLE001 - a file that cannot be read must not end a replica
                _log.exception("kept predictions cannot be stored")
            path.unlink(missing_ok=True)
            path.with_suffix(".parquet").unlink(missing_ok=True)
        return True


def prepare(folder: Path) -> None:
    """Make the folder that the model's process writes to."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)


def _written(path: Path, spec: ReplicaSpec) -> Stored | None:
    # Arrow is for replicas that keep something: the others start without it.
    from services.inference.replica.payload_table import write

    return write(path, spec)
