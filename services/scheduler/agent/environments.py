"""Python environments of jobs: made once from a lock of packages, and kept by the digest of what it says.

The agent installs wheels alone, each checked against its hash: nothing of a package runs until the job does, in its
sandbox, which sees the environment and cannot write to it.
"""

import asyncio
import hashlib
import logging
import os
import secrets
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from aios.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from aios.names import JobName
from aios.requirements import BYTES_MAX, REQUIREMENTS_FILE, locked

BUILD_SECONDS = 1_200
KEPT = 8
"""Environments that no attempt uses, the last ones used."""
SAID_LINES = 12
BUILDS_AT_ONCE = 2
FREE_BYTES_MIN = 2 << 30
"""On the disk of the environments, which the agent's own lease needs too: below it nothing is installed."""
LOOK_SECONDS = 0.5
_READY, _GONE = "ready", ".gone-"

_log = logging.getLogger(__name__)


class EnvironmentFailed(FailedPrecondition):
    """A job's packages cannot be installed on this node: the lock names none that fit, or their index is away."""

    reason = "ENVIRONMENT_FAILED"


class Environments:
    """Every environment of this node.

    Args:
        root: Where they are; made.
        address: Of the platform's door, where locks are read.
        index: An index of packages, or a folder of wheels; PyPI where empty.
    """

    def __init__(self, root: Path, address: str = "", index: str = "") -> None:
        self._root = root
        self._address = address
        self._turns = asyncio.Semaphore(BUILDS_AT_ONCE)
        remote = "://" in index
        # Not as an argument: an address may hold a password.
        self._index = {"UV_DEFAULT_INDEX": index} if remote else {}
        self._found_in = ["--no-index", "--find-links", index] if index and not remote else []
        self._locks: dict[str, asyncio.Lock] = {}

    async def of_version(
        self, version: str, job: str, token: Path, used: Callable[[], Collection[str]] = tuple
    ) -> Path:
        """The environment of the lock in a dataset version, read with the job's own token: what it may not have, it
        does not get.

        Raises:
            EnvironmentFailed: it cannot be read, or as `get` says.
            ConnectionError: the platform does not answer.
        """
        from aios.client import AsyncClient  # heavy, and for few jobs
        from aios.client.credentials import Credentials

        project = JobName.parse(job).project
        credentials = Credentials(self._address, project, "", token)
        try:
            with tempfile.TemporaryDirectory(prefix="aios-lock-") as scratch:
                async with AsyncClient(credentials=credentials) as client:
                    listed = [each async for each in client.datasets.downloads(version, [REQUIREMENTS_FILE])]
                    if len(listed) != 1 or listed[0].file.size_bytes > BYTES_MAX:
                        raise ValueError(version)
                    (path,) = await client.datasets.pull(version, scratch, paths=[REQUIREMENTS_FILE])
                text = await asyncio.to_thread(path.read_text)
        except (NotFound, PermissionDenied, ValueError) as error:
            raise EnvironmentFailed(
                f"{version} holds no {REQUIREMENTS_FILE} that this job may read."
            ) from error
        except (Unavailable, DeadlineExceeded) as error:
            raise ConnectionError(f"{version} cannot be read now: {error.message}") from error
        return await self.get(text, used)

    async def get(self, text: str, used: Callable[[], Collection[str]] = tuple) -> Path:
        """The environment of a lock, made where it is not there yet.

        Args:
            used: Says which ones attempts use: they stay.

        Raises:
            EnvironmentFailed: saying what the installer said.
        """
        try:
            packages = locked(text)
        except InvalidArgument as error:
            raise EnvironmentFailed(f"The lock cannot be read: {error.message}") from None
        folder = self._root / _name(packages)
        async with self._locks.setdefault(folder.name, asyncio.Lock()):
            if not (folder / _READY).exists():
                making = {name for name, lock in self._locks.items() if lock.locked()}
                # Moved away at once, and removed meanwhile: nobody meets half an environment under its name.
                gone = self._move_away(folder, making | {Path(each).name for each in used()})
                await asyncio.to_thread(_remove, gone)
                async with self._turns:
                    await self._build(folder, packages)
            (folder / _READY).touch()
        return folder

    async def _build(self, folder: Path, packages: Sequence[str]) -> None:
        folder.mkdir(parents=True)
        lock, cache = folder / "requirements.lock", folder / "cache"
        lock.write_text("\n".join(packages) + "\n")
        _log.info("making an environment of %s packages in %s", len(packages), folder)
        venv = [_uv(), "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(folder)]
        install = [_uv(), "pip", "install", "--quiet", "--python", str(folder / "bin" / "python")]
        rules = ["--require-hashes", "--only-binary", ":all:", "--no-deps", "--requirements", str(lock)]
        try:
            async with asyncio.timeout(BUILD_SECONDS):
                for command in (venv, [*install, *self._found_in, *rules]):
                    await _run(command, folder, {"UV_CACHE_DIR": str(cache), **self._index})
        except TimeoutError:
            raise EnvironmentFailed(f"Its packages were not installed within {BUILD_SECONDS} s.") from None
        finally:
            await asyncio.to_thread(shutil.rmtree, cache, ignore_errors=True)

    def _move_away(self, broken: Path, kept: Collection[str]) -> list[Path]:
        """Give what is to be removed other names: what a crash left of one, and what was unused for longest."""
        if not self._root.is_dir():
            return []
        found = [each for each in self._root.iterdir() if not each.name.startswith(_GONE)]
        others = [each for each in found if each.name not in kept]
        others.sort(key=lambda each: (each / _READY).stat().st_mtime if (each / _READY).exists() else 0.0)
        for each in [*others[: max(0, len(others) - KEPT)], *([broken] if broken.exists() else [])]:
            each.rename(self._root / f"{_GONE}{secrets.token_hex(8)}")
        return list(self._root.glob(f"{_GONE}*"))


def _remove(folders: Sequence[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _name(packages: Sequence[str]) -> str:
    """Of packages for this interpreter, on this kind of machine."""
    said = "\n".join([sys.executable, sys.version, sysconfig.get_platform(), *packages])
    return hashlib.sha256(said.encode()).hexdigest()[:32]


def _uv() -> str:
    found = Path(sys.executable).parent / "uv"
    program = str(found) if found.exists() else shutil.which("uv")
    if program is None:
        raise EnvironmentFailed(
            "This node has no `uv`, which installs packages: it comes with the extra `worker`."
        )
    return program


async def _run(command: Sequence[str], folder: Path, variables: Mapping[str, str]) -> None:
    """Run an installer, for as long as the disk has room.

    Raises:
        EnvironmentFailed: with the end of what it said.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "NO_COLOR": "1", "UV_NO_PROGRESS": "1", **variables},
        start_new_session=True,
    )
    ending = asyncio.ensure_future(process.communicate())
    try:
        while not ending.done():
            if shutil.disk_usage(folder).free < FREE_BYTES_MIN:
                raise EnvironmentFailed(
                    f"The node's disk has less than {FREE_BYTES_MIN >> 30} GiB left: free some, or ask for fewer packages."
                )
            await asyncio.wait([ending], timeout=LOOK_SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    _, said = await ending
    if process.returncode:
        lines = said.decode(errors="replace").strip().splitlines()[-SAID_LINES:]
        raise EnvironmentFailed("Its packages cannot be installed: " + " ".join(" ".join(lines).split()))
