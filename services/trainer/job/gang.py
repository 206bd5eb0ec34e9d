"""A run's job as one of several, on one machine or on more: where the ranks meet, and who speaks for all of them.

The first replica is the run to the platform. The others fetch the same inputs and the same checkpoint, start their ranks,
and tell nobody anything.
"""

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import aios.train
from aios.common.v1 import tensor_pb2
from aios.train import Run
from aios.train.home import Checkpoint
from aios.train.remote import Remote
from aios.train.run import joined
from aios.trainer.v1 import run_pb2

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE")


@dataclass(frozen=True)
class Gang:
    """This replica among those of the job."""

    rank: int
    replicas: int
    host: str
    port: int


def take(environment: MutableMapping[str, str]) -> Gang | None:
    """What the node said of this replica; None where there is one. This process itself is no rank: what it starts is."""
    if "RANK" not in environment:
        return None
    said = {name: environment.pop(name, "0") for name in VARIABLES}
    meets = environment.pop("MASTER_ADDR"), int(environment.pop("MASTER_PORT"))
    return Gang(int(said["RANK"]), int(said["WORLD_SIZE"]), *meets)


@contextmanager
def join(gang: Gang | None) -> Iterator[Run]:
    """Join the run, as the one that speaks or as one of those that help."""
    if gang is None or gang.rank == 0:
        with aios.train.init() as run:
            yield run
    else:
        with joined(Helper) as run:
            yield run


class Helper(Remote):
    """The run as every replica but the first has it: it reads, and writes nothing."""

    def restore(self) -> Checkpoint | None:
        """The checkpoint that the first one goes on from: it saves none before all ranks have met."""
        return self.newest()

    def save(self, step: int, folder: Path) -> None:
        """The first one saves."""

    def put(self, step: int, metrics: Mapping[str, float], progress: run_pb2.Progress) -> None:
        """The first one reports."""

    def complete(
        self,
        model: Path | None,
        signature: tensor_pb2.Signature | None,
        metrics: Mapping[str, float],
        outputs: Path | None,
        card: str = "",
        rejected: str = "",
    ) -> str:
        """The first one hands over."""
        return ""
