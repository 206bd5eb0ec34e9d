"""What a job may use of a device that it shares with others."""

import os
from contextlib import suppress

from aios.scheduling import MEMORY_FRACTION


def keep_to_share() -> float | None:
    """Hold this process to its part of the memory of a GPU that it shares; what it is, None where it shares none.

    PyTorch keeps to it: an allocation beyond fails in this process alone. Kernels of all who share a device take turns on
    it, and nothing bounds memory that is allocated past PyTorch.
    """
    said = os.environ.get(MEMORY_FRACTION)
    if not said:
        return None
    with suppress(ImportError):
        import torch

        if torch.cuda.is_available():
            torch.cuda.set_per_process_memory_fraction(float(said))
    return float(said)
