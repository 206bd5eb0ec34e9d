"""What a process does with its part of a GPU that it shares."""

import pytest
import torch

from aios.scheduling import MEMORY_FRACTION
from aios.train.devices import keep_to_share


def test_a_process_keeps_to_its_part_of_a_gpu_where_it_shares_one(monkeypatch: pytest.MonkeyPatch) -> None:
    bound: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", bound.append)
    monkeypatch.delenv(MEMORY_FRACTION, raising=False)
    assert keep_to_share() is None
    monkeypatch.setenv(MEMORY_FRACTION, "0.2500")
    assert keep_to_share() == 0.25
    assert bound == [0.25]
