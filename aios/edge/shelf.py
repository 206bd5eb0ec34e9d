"""The signed models that a device has on disk: the one that it runs, and the last one that ran."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aios.edge import run

STATE = "running.json"
SCRATCH = "fetched"
"""Where a model is until it has answered."""


class Unfit(Exception):
    """A model that is not put to work: not signed by our key, or it does not answer."""


@dataclass(frozen=True)
class Running:
    """A signed model, loaded, that has answered."""

    id: str
    """SHA-256 of its manifest."""
    manifest: dict[str, Any]
    session: Any

    @property
    def version(self) -> str:
        return str(self.manifest["model_version"])

    def ask(self, said: Any) -> dict[str, Any]:
        """Predictions for instances, as JSON has them.

        Raises:
            run.WrongInput
        """
        return run.answered(self.manifest, self.session, run.arrays(self.manifest, said))


class Shelf:
    """A folder; one process uses it at a time."""

    def __init__(self, folder: Path, key: bytes) -> None:
        self._folder = folder
        self._key = key
        folder.mkdir(parents=True, exist_ok=True)

    def load(self) -> tuple[Running | None, str]:
        """What ran last, or what ran before where that does not answer any more; and why not the former."""
        problem = ""
        state = self._state()
        for name in state:
            try:
                found = self._checked(self._folder / name)
            except Unfit as error:
                problem = problem or str(error)
                continue
            if name != state[0]:  # else the next that is installed would take its place, not the worn one's
                with suppress(OSError):  # a disk that takes no note takes no other model either
                    _replace(self._folder / STATE, json.dumps([name, state[0]]))
            return found, problem
        return None, problem

    async def install(
        self, manifest: bytes, signature: str, fetch: Callable[[Path], Awaitable[None]]
    ) -> Running:
        """Fetch a model beside the one that runs, try it, and only then note that it is the one to run.

        Args:
            fetch: Writes the model's file.

        Raises:
            Unfit: everything is as it was.
        """
        self._require_signed(manifest, signature)
        name = hashlib.sha256(manifest).hexdigest()
        target = self._folder / name
        try:
            found = self._checked(target)  # the one before it, once more
        except Unfit:
            found = await self._fetched(target, manifest, signature, fetch)
        kept = [name, *(each for each in self._state() if each != name)][:2]
        _replace(self._folder / STATE, json.dumps(kept))
        for other in self._folder.iterdir():
            if other.is_dir() and other.name not in kept:
                shutil.rmtree(other, ignore_errors=True)
        return found

    async def _fetched(
        self, target: Path, manifest: bytes, signature: str, fetch: Callable[[Path], Awaitable[None]]
    ) -> Running:
        """Under its name once it is whole and answers."""
        scratch = self._folder / SCRATCH
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        try:
            (scratch / run.MANIFEST).write_bytes(manifest)
            (scratch / run.SIGNATURE).write_text(signature + "\n")
            await fetch(scratch / str(json.loads(manifest)["model"]))
            found = self._checked(scratch)
            _flush(scratch)
            shutil.rmtree(target, ignore_errors=True)
            scratch.rename(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return found

    def _require_signed(self, manifest: bytes, signature: str) -> None:
        """Nothing is fetched for what our key did not sign."""
        try:
            held = run.verify(self._key, manifest, bytes.fromhex(signature))
        except ValueError:
            held = False
        if not held:
            raise Unfit("the signature of the manifest does not hold under this device's key")

    def _state(self) -> list[str]:
        """The one to run, then the one before it."""
        try:
            return [str(each) for each in json.loads((self._folder / STATE).read_text())]
        except (OSError, ValueError):
            return []

    def _checked(self, folder: Path) -> Running:
        """Loaded, and tried on zeros: each output must come in the shape that the signature says."""
        try:
            manifest, content = run.opened(folder, self._key)
            found = Running(
                hashlib.sha256((folder / run.MANIFEST).read_bytes()).hexdigest(),
                manifest,
                run.session_of(content),
            )
            outputs = run.answered(manifest, found.session, _zeros(manifest))["predictions"][0]["outputs"]
            for each in manifest["outputs"]:
                if not _fits(outputs[each["name"]], each["shape"]):
                    raise Unfit(f"output {each['name']} has not the shape {each['shape']}")
        except Unfit:
            raise
        except Exception as error:  # whatever a model and its runtime may raise
            raise Unfit(f"it does not answer: {error}") from error
        return found


def _zeros(manifest: dict[str, Any]) -> dict[str, Any]:
    import numpy as np

    return {
        each["name"]: np.full(
            (1, *(1 if size < 0 else size for size in each["shape"])),
            b"" if each["datatype"] == "BYTES" else 0,
            run.DTYPES[each["datatype"]],
        )
        for each in manifest["inputs"]
    }


def _fits(value: Any, shape: list[int]) -> bool:
    if not shape:
        return not isinstance(value, list)
    return (
        isinstance(value, list)
        and shape[0] in (-1, len(value))
        and all(_fits(e, shape[1:]) for e in value[:1])
    )


def _flush(folder: Path) -> None:
    """What it holds, and that it is there, outlive a power cut."""
    for path in [*folder.iterdir(), folder, folder.parent]:
        _sync(path)


def _replace(path: Path, text: str) -> None:
    """The old text or the new one, whatever dies."""
    scratch = path.with_name(f".{path.name}.{time.monotonic_ns()}")
    scratch.write_text(text)
    _sync(scratch)
    scratch.rename(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
