"""What one replica serves, as plain values."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

ELEMENT_BYTES = {
    "BOOL": 1,
    "UINT8": 1,
    "UINT16": 2,
    "UINT32": 4,
    "UINT64": 8,
    "INT8": 1,
    "INT16": 2,
    "INT32": 4,
    "INT64": 8,
    "FP16": 2,
    "FP32": 4,
    "FP64": 8,
    "BYTES": 4,  # an empty string is its 4-byte length
}
"""Datatypes of the Open Inference Protocol that a model may use, with the bytes of one zero.

BF16 is missing on purpose: numpy has no such type, so Triton's Python backend cannot read it.
"""


class State(Enum):
    """Where a replica stands."""

    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True)
class Tensor:
    """One input or output. `shape` leaves the batch dimension out; -1 is any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Signature:
    """What the model takes and gives. `max_batch_size` 0 means that it has no batch dimension."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    max_batch_size: int

    def smallest_request(self) -> list[tuple[Tensor, tuple[int, ...]]]:
        """Each input with the smallest full shape that the model accepts: every free dimension is 1.

        A scalar is asked for as one element, because the protocol's servers know no rank 0.
        """
        batch = (1,) if self.max_batch_size else ()
        return [(each, batch + tuple(max(size, 1) for size in each.shape or (1,))) for each in self.inputs]


@dataclass(frozen=True)
class PayloadLog:
    """What is kept of the predictions."""

    sample_rate: float
    redact: tuple[str, ...]
    window_seconds: int


@dataclass(frozen=True)
class ReplicaSpec:
    """One revision of a deployment."""

    deployment_id: str
    """The model name that clients use."""
    revision: str
    model_version: str
    signature: Signature
    batch_delay_micros: int
    """Longest wait to fill a batch; 0 leaves dynamic batching off."""
    manifest_sha256: str
    labels: tuple[str, ...] = ()
    """Of the classes, where it tells them apart."""
    payload_log: PayloadLog | None = None


@dataclass(frozen=True)
class Download:
    """One file of the model version and where to get it. `url` and the key are secrets."""

    path: str
    sha256: str
    size_bytes: int
    url: str
    encryption_key: bytes = b""


def zero_bytes(tensor: Tensor, shape: Sequence[int]) -> bytes:
    """Zeros (empty strings for BYTES) of this shape, as the binary tensor extension carries them."""
    return bytes(ELEMENT_BYTES[tensor.datatype] * math.prod(shape))
