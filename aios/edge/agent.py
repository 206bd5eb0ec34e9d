"""Runs on a device: serves the signed model that it has, and fetches the one that it should have when it can."""

import asyncio
import base64
import hashlib
import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from aios import transfer
from aios.cancellation import leave_if_cancelled
from aios.edge.door import Door
from aios.edge.figures import REQUEST_SECONDS, Counter, Figures
from aios.edge.leaf import Identity, Leaf
from aios.edge.shelf import Shelf, Unfit
from aios.errors import AiosError

ASK_SECONDS = 30.0  # between questions what to run; a change is told at once
AWAY_SECONDS = 2.0  # the same while the platform is away: a question ends at the leaf node

_log = logging.getLogger(__name__)


class Agent:
    """One device."""

    def __init__(self, identity: Identity, key: bytes, home: Path, serve: tuple[str, int]) -> None:
        self._identity = identity
        self._shelf = Shelf(home / "models", key)
        self._leaf = Leaf(identity, home / "leaf")
        self._counter = Counter()
        self._running, self._problem = self._shelf.load()
        self._refused = ""
        """Id of a manifest that is not tried again: it would fail again."""
        self._told = asyncio.Event()
        self._door = Door(serve, lambda: self._running, self._counter)

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until told to stop; what was counted is on disk then."""
        self._door.start()
        _log.info(
            "serving %s at %s",
            self._running.version if self._running else "nothing yet",
            self._door.server_address,
        )
        keeping = asyncio.create_task(self._leaf.run())
        working = asyncio.create_task(self._work())
        try:
            await asyncio.wait(
                [asyncio.create_task(stop.wait()), keeping, working], return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            self._door.shutdown()
            working.cancel()
            await asyncio.wait([working])
            self._leaf.stop()
            await keeping
        if not working.cancelled():
            working.result()  # it never ends by itself but by a mistake: whoever started us hears of it

    async def _work(self) -> None:
        client = Client()
        figures = Figures(client, self._counter, self._identity.subject)
        try:
            await client.connect(
                self._leaf.url,
                name="aios-edge",
                user=self._leaf.user,
                password=self._leaf.password,
                # Answers of the platform come back below the device's own subject: it may hear no other.
                inbox_prefix=f"{self._identity.subject}.inbox".encode(),
                max_reconnect_attempts=-1,
                reconnect_time_wait=1,
                error_cb=_ignored,
            )
            await client.subscribe(f"{self._identity.subject}.told", cb=self._on_told)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow(client))
                group.create_task(figures.run())
        finally:
            with suppress(nats.errors.Error, TimeoutError):
                await figures.keep()
            await client.close()

    async def _on_told(self, message: Msg) -> None:
        self._told.set()

    async def _follow(self, client: Client) -> None:
        """Run what the platform says, as soon as it says so."""
        while True:
            leave_if_cancelled()
            pause = ASK_SECONDS
            self._told.clear()
            try:
                while await self._changed(await self._ask(client)):
                    pass
            except (nats.errors.Error, TimeoutError):
                pause = AWAY_SECONDS
            except (AiosError, OSError, ValueError) as error:
                self._problem = f"it cannot be fetched: {error}"
                _log.warning("what to run is asked again: %s", error)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._told.wait(), pause)

    async def _ask(self, client: Client) -> "Wanted | None":
        said = {"running": self._running.version if self._running else "", "problem": self._problem}
        answer = await client.request(
            f"{self._identity.subject}.ask", json.dumps(said).encode(), timeout=REQUEST_SECONDS
        )
        return _wanted(answer.data)

    async def _changed(self, wanted: "Wanted | None") -> bool:
        """Whether what runs, or what is wrong, is another now: then the platform is to hear of it."""
        before = (self._running.id if self._running else "", self._problem)
        if wanted is None:
            self._problem = ""
            return before[1] != ""
        manifest = wanted.manifest
        signed = _id(manifest, wanted.signature)
        if signed == self._refused:
            return False
        if self._running and self._running.id == _digest(manifest):
            self._problem = ""
            return before[1] != ""

        async def fetch(target: Path) -> None:
            async with transfer.client() as http:
                await transfer.download(http, wanted.url, wanted.sha256, wanted.size_bytes, target)

        try:
            self._running = await self._shelf.install(manifest, wanted.signature, fetch)
            self._problem = ""
            _log.info("serving %s", self._running.version)
        except Unfit as error:
            self._refused, self._problem = signed, f"{wanted.version} is not put to work: {error}"
            _log.warning("%s", self._problem)
        return True


class Wanted(NamedTuple):
    """What the platform says that this device should run. Nothing of it is believed before the signature holds."""

    version: str
    manifest: bytes
    signature: str
    url: str
    sha256: str
    size_bytes: int


def _wanted(answer: bytes) -> Wanted | None:
    """None where it should run nothing.

    Raises:
        ValueError: it is no answer.
    """
    said = json.loads(answer)
    if said == {}:
        return None
    try:
        return Wanted(
            str(said["model_version"]),
            base64.b64decode(said["manifest"]),
            str(said["signature"]),
            str(said["url"]),
            str(said["sha256"]),
            int(said["size_bytes"]),
        )
    except (TypeError, KeyError) as error:
        raise ValueError(f"the platform's answer is none: {error!r}") from None


def _digest(manifest: bytes) -> str:
    return hashlib.sha256(manifest).hexdigest()


def _id(manifest: bytes, signature: str) -> str:
    return f"{_digest(manifest)} {signature}"


async def _ignored(error: Exception) -> None:
    """The leaf node comes back by itself, and the client with it."""
