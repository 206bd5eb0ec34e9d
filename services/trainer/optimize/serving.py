"""What variants cost through Triton on this machine, by the code that serves replicas.

The measurement is a process of its own, `services.inference.replica.measure`: it is started as a command, as replicas
are, since no service imports another's code.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from google.protobuf.json_format import MessageToDict
from numpy.typing import NDArray

from aios.common.v1 import tensor_pb2
from aios.errors import FailedPrecondition

MEASURE = "services.inference.replica.measure"
BATCHES = (1, 8, 32)
ANSWERS = 256  # inputs whose answers are compared with those of ONNX Runtime in this process
WHERE = (
    "Triton (the server and configuration of a replica), one client in a closed loop, servers asked in turns"
)


class CannotServe(FailedPrecondition):
    """Triton did not serve a model. The message says why."""

    reason = "CANNOT_SERVE"


@dataclass(frozen=True)
class Served:
    """What one model cost."""

    memory_bytes: int
    batches: Mapping[int, Mapping[str, Any]]
    answers: NDArray[Any]

    @classmethod
    def of(cls, said: Mapping[str, Any], answers: NDArray[Any]) -> "Served":
        """What a measurement said of one model."""
        return cls(
            said["memory_bytes"], {int(batch): each for batch, each in said["batches"].items()}, answers
        )

    def told(self) -> dict[str, Any]:
        """As JSON; without the answers."""
        batches = {str(batch): dict(costs) for batch, costs in self.batches.items()}
        return {"memory_bytes": self.memory_bytes, "batches": batches}

    def p50(self, batch: int) -> float:
        """Median latency, ms."""
        return float(self.batches[batch]["p50_ms"])

    def times(self, other: "Served", batch: int) -> float:
        """How many times as long as another it takes: the median over rounds that followed each other."""
        pairs = zip(self.batches[batch]["rounds_ms"], other.batches[batch]["rounds_ms"], strict=True)
        return float(statistics.median(mine / theirs for mine, theirs in pairs))


def measure(
    models: Mapping[str, tuple[Path, tensor_pb2.Signature]],
    inputs: torch.Tensor,
    scratch: Path,
    *,
    seconds: float,
    threads: int,
    batches: Sequence[int] = BATCHES,
) -> dict[str, Served]:
    """Serve models side by side and ask each.

    Args:
        models: Folder and signature by name.
        seconds: For each model at each batch size.

    Raises:
        CannotServe: one could not be served.
    """
    np.save(scratch / "inputs.npy", inputs[:ANSWERS].numpy())
    most = min(signature.max_batch_size for _, signature in models.values())
    used = [batch for batch in batches if batch <= most] or [1]
    request = {
        "models": {
            name: {"folder": str(folder), "signature": MessageToDict(signature)}
            for name, (folder, signature) in models.items()
        },
        "inputs": str(scratch / "inputs.npy"),
        "batches": used,
        "seconds": seconds,
        "threads": threads,
        "outputs": str(scratch),
    }
    return {
        name: Served.of(each, np.load(scratch / f"{name}.npy"))
        for name, each in measured(MEASURE, request).items()
    }


def measured(module: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """What a measurement, run as a command, says of each model by name.

    Raises:
        CannotServe: one could not be served.
    """
    done = subprocess.run(
        [sys.executable, "-m", module],
        input=json.dumps(request),
        stdout=subprocess.PIPE,
        stderr=None,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CannotServe("Triton could not serve a variant; the log says why.")
    said: dict[str, Any] = json.loads(done.stdout)
    return said
