"""The process beside Triton that holds a language model: started before it, watched with it, ended with it."""

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Mapping
from pathlib import Path

from aios.errors import FailedPrecondition
from services.inference.replica import server
from services.inference.replica.language import Language

SOCKET = "lm"
"""In the working directory, where `text_model.py` looks for it: a longer path would not fit into an address."""
POLL_SECONDS = 0.05


class WeightsEnded(FailedPrecondition):
    """The process that holds the model ended by itself."""

    reason = "WEIGHTS_ENDED"


class Weights:
    """A running process. `start` returns once it has answered; `stop` leaves nothing behind."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @classmethod
    async def start(
        cls, kind: Language, artifacts: Path, scratch: Path, environment: Mapping[str, str]
    ) -> "Weights":
        """
        Raises:
            WeightsEnded: the model cannot be loaded; its log says why.
        """
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.inference.replica.lm"),
            *(kind.value, str(artifacts), SOCKET),
            env={**environment, "PYTHONPATH": os.pathsep.join(each for each in sys.path if each)},
            cwd=scratch,
            stdin=asyncio.subprocess.DEVNULL,
            process_group=0,
            preexec_fn=server.die_with_parent,
        )
        made = cls(process)
        try:
            while not (scratch / SOCKET).exists():
                if process.returncode is not None:
                    await made.ended()
                await asyncio.sleep(POLL_SECONDS)
        except BaseException:
            await made.stop()
            raise
        return made

    @property
    def pid(self) -> int:
        """Of the process that holds the model."""
        return self._process.pid

    async def ended(self) -> None:
        """Wait for its end.

        Raises:
            WeightsEnded: always.
        """
        code = await self._process.wait()
        raise WeightsEnded(f"the language model's process ended with {code}: see the job's log")

    async def stop(self) -> None:
        """End it. What it had under way is lost with Triton's, which stopped before."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
