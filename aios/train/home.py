"""Where a run lives: on the platform (`remote`), or in a folder of this machine (`local`). A script sees no difference."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from aios.common.v1 import tensor_pb2
from aios.trainer.v1 import run_pb2


@dataclass(frozen=True)
class Checkpoint:
    """What to go on from: the files that were written under `save`."""

    step: int
    folder: Path
    name: str = ""
    """On the platform."""


class Home(Protocol):
    """What `Run` asks of either."""

    name: str
    """`projects/{project}/runs/{run}`, or the folder."""
    spec: run_pb2.RunSpec
    scratch: Path
    """For files of this attempt alone."""

    def dataset(self, name: str, folder: Path) -> Path:
        """The folder with a dataset's files: those of the run's own, or of one of `datasets` by name."""

    def base_model(self, folder: Path) -> tuple[Path, tensor_pb2.Signature]:
        """The folder with the files of the run's base model, and what that takes and gives."""

    def restore(self) -> Checkpoint | None:
        """Take the run over, from its newest checkpoint where there is one."""

    def save(self, step: int, folder: Path) -> None:
        """Store a folder as the checkpoint of a step: durable once this returns."""

    def put(self, step: int, metrics: Mapping[str, float], progress: run_pb2.Progress) -> None:
        """Take one step's metrics; in the background where that takes long."""

    def minds_stops(self) -> None:
        """The script asks whether to stop, so it saves its work when it is told to."""

    def flush(self) -> None:
        """Wait until everything put is stored."""

    def complete(
        self,
        model: Path | None,
        signature: tensor_pb2.Signature | None,
        metrics: Mapping[str, float],
        outputs: Path | None,
        card: str = "",
        rejected: str = "",
    ) -> str:
        """Store what the run made; the model version's name, empty where none is registered."""

    def close(self) -> None:
        """Let go of everything."""
