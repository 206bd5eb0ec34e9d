"""One process of a service at a time. The next one may load beside it, and starts the moment it has ended: what a
restart costs is the change of turns, not the second or more that a program takes to load.
"""

import asyncio
import fcntl
import logging
import os
from pathlib import Path
from typing import TextIO

LOOK_SECONDS = 0.02

_log = logging.getLogger(__name__)


def sign(home: Path, service: str) -> Path:
    """The file that a process makes when it is loaded and waits for its turn."""
    return home / "turns" / f"{service}.next"


async def take(home: Path, service: str, stop: asyncio.Event) -> TextIO | None:
    """Wait for our turn, which lasts until the file is closed. None: `stop` came first."""
    path = sign(home, service).with_suffix(".lock")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = path.open("a")
    waiting = False
    while not stop.is_set():
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not waiting:
                waiting = True
                sign(home, service).write_text(str(os.getpid()))
                _log.info("loaded; another process of this service runs until it is told to end")
            await asyncio.sleep(LOOK_SECONDS)
        else:
            return lock
    lock.close()
    return None
