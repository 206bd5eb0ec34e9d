"""Several processes of one run: which of them this is, and what they agree on.

Whoever starts them (a job with `launcher: torchrun`, or torchrun itself) says it by RANK and WORLD_SIZE. What they say to
each other goes over a gloo group of its own, beside the one that the script trains with.
"""

import os
import sys
import threading
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.json_format import Parse

from aios.common.v1 import tensor_pb2
from aios.errors import FailedPrecondition, InvalidArgument
from aios.train.home import Checkpoint
from aios.trainer.v1 import run_pb2

SPEC, BEATS = "AIOS_RUN_SPEC", "AIOS_RUN_BEATS"
"""Files that a job's launcher names: what was asked for, as JSON; the folder that ranks show their life in."""
BEAT_SECONDS = 0.5
STEP = ".step"
"""Ends the name of a rank's file that shows its training and not only its life."""

T = TypeVar("T")


class NoProcessGroup(FailedPrecondition):
    """Ranks agree over torch.distributed: call `init_process_group` first."""

    reason = "NO_PROCESS_GROUP"


class Ranks:
    """This process among those that train the run together."""

    def __init__(self, rank: int, world: int) -> None:
        self.rank = rank
        self.world = world

    @classmethod
    def of_environment(cls) -> "Ranks":
        """As the launcher said; alone where it said nothing."""
        return cls(int(os.environ.get("RANK") or 0), int(os.environ.get("WORLD_SIZE") or 1))

    def any(self, flag: bool) -> bool:
        """Whether it is so for one of them at least: the same answer for all. A call of one is a call of each."""
        if self.world == 1 or not self._can_speak:
            return flag
        import torch

        said = torch.tensor([flag], dtype=torch.int32)
        torch.distributed.all_reduce(said, torch.distributed.ReduceOp.MAX, group=self._group)
        return bool(said.item())

    def of_first(self, value: T) -> T:
        """What the first rank says. Returns once it has said it.

        Raises:
            NoProcessGroup: they cannot speak yet.
        """
        if self.world == 1:
            return value
        if not self._can_speak:
            raise NoProcessGroup(
                "The ranks of a run agree over torch.distributed: call init_process_group first."
            )
        import torch

        box = [value]
        torch.distributed.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    def wait(self) -> None:
        """Until every rank has come here. Those that cannot speak do not wait."""
        if self.world > 1 and self._can_speak:
            import torch

            torch.distributed.barrier(group=self._group)

    @property
    def _can_speak(self) -> bool:
        torch = sys.modules.get("torch")
        return torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized()

    @cached_property
    def _group(self) -> Any:
        """Over the processor, so that no word waits for a device."""
        import torch

        return torch.distributed.new_group(backend="gloo")


ALONE = Ranks(0, 1)


class Follower:
    """The run as every rank but the first has it: what the first one says is said for all."""

    def __init__(self, name: str, spec: run_pb2.RunSpec, scratch: Path, datasets: Mapping[str, Path]) -> None:
        self.name = name
        self.spec = spec
        self.scratch = scratch
        self._datasets = datasets

    def dataset(self, name: str, folder: Path) -> Path:
        """Where the launcher put it."""
        if name not in self._datasets:
            raise InvalidArgument.of("dataset", f"the run reads no dataset {name!r}")
        return self._datasets[name]

    def base_model(self, folder: Path) -> tuple[Path, tensor_pb2.Signature]:
        """Only the first rank has it."""
        raise FailedPrecondition("The first rank alone fetches the base model.", reason="NOT_THE_FIRST_RANK")

    def restore(self) -> Checkpoint | None:
        """The first rank restores."""
        return None

    def save(self, step: int, folder: Path) -> None:
        """The first rank saves what all wrote."""

    def put(self, step: int, metrics: Mapping[str, float], progress: run_pb2.Progress) -> None:
        """The first rank reports."""

    def minds_stops(self) -> None:
        """The first rank says so."""

    def flush(self) -> None:
        """Nothing waits here."""

    def complete(
        self,
        model: Path | None,
        signature: tensor_pb2.Signature | None,
        metrics: Mapping[str, float],
        outputs: Path | None,
        card: str = "",
        rejected: str = "",
    ) -> str:
        """The first rank hands over the result."""
        return ""

    def close(self) -> None:
        """Nothing is open."""


def spec_told() -> run_pb2.RunSpec | None:
    """What the launcher of a job says was asked for."""
    path = os.environ.get(SPEC)
    return Parse(Path(path).read_text(), run_pb2.RunSpec()) if path else None


class Beats:
    """Shows the launcher that this rank lives, from a thread of its own, and that it trains."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._life, self._step = folder / str(rank), folder / f"{rank}{STEP}"
        self._trained = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="aios-beats", daemon=True)
        self._thread.start()

    @classmethod
    def of_environment(cls, rank: int) -> "Beats | None":
        """Where a launcher looks for them."""
        folder = os.environ.get(BEATS)
        return cls(Path(folder), rank) if folder else None

    def trained(self) -> None:
        """It has come to another step. On the training loop's time: one assignment."""
        self._trained = True

    def close(self) -> None:
        """It has come to its end: nobody is to wait for a sign of it."""
        self._end.set()
        self._thread.join()
        for file in (self._life, self._step):
            file.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._end.is_set():
            self._life.touch()
            if self._trained:
                self._trained = False
                self._step.touch()
            self._end.wait(BEAT_SECONDS)
