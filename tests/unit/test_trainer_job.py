"""The parts of the training process that need no platform."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from services.trainer.job import checkpoint, data, export, optimizers, outputs


@given(
    samples=st.integers(1, 60),
    batch_size=st.integers(1, 16),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 9),
    cut=st.integers(0, 40),
)
def test_a_resumed_run_sees_exactly_the_samples_it_would_have_seen(
    samples: int, batch_size: int, epochs: int, seed: int, cut: int
) -> None:
    whole = [
        (step, epoch, order.tolist())
        for step, epoch, order in data.batches(samples, batch_size, epochs, seed, 0)
    ]
    resumed = [
        (step, epoch, order.tolist())
        for step, epoch, order in data.batches(samples, batch_size, epochs, seed, cut)
    ]
    assert resumed == whole[cut:]


def test_every_epoch_sees_every_sample_once_in_another_order() -> None:
    seen: dict[int, list[int]] = {1: [], 2: []}
    for _, epoch, order in data.batches(50, 8, 2, seed=1, first_step=0):
        seen[epoch] += order.tolist()
    assert sorted(seen[1]) == sorted(seen[2]) == list(range(50))
    assert seen[1] != seen[2]


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam", "adamw"])
def test_training_goes_on_from_a_checkpoint_bit_for_bit(tmp_path: Path, name: str) -> None:
    def made() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))
        return model, optimizers.make(name, model.parameters(), 0.01, 0.1)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
        loss = model(torch.rand(16, 4)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        value: float = loss.item()
        return value

    model, optimizer = made()
    for _ in range(3):
        step(model, optimizer)
    checkpoint.save(tmp_path, model, optimizer, step=3)
    expected = [step(model, optimizer) for _ in range(3)]

    model, optimizer = made()
    assert checkpoint.load(tmp_path, model, optimizer) == {"step": 3}
    assert [step(model, optimizer) for _ in range(3)] == expected


def test_an_unknown_optimizer_is_an_error() -> None:
    with pytest.raises(ValueError, match="nadam"):
        optimizers.make("nadam", [nn.Parameter(torch.zeros(1))], 0.1, 0.0)


@pytest.mark.timeout(120)
def test_an_exported_model_answers_as_the_trained_one_at_any_batch_size(tmp_path: Path) -> None:
    import onnxruntime

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3))
    signature = export.to_onnx(
        model,
        torch.rand(2, 4),
        tmp_path,
        input_name="x",
        output_name="y",
        labels=["a", "b", "c"],
        max_batch_size=8,
    )
    assert (signature.inputs[0].name, signature.inputs[0].datatype, list(signature.inputs[0].shape)) == (
        "x",
        "FP32",
        [4],
    )
    session = onnxruntime.InferenceSession(str(tmp_path / outputs.MODEL_FILE))
    for batch in (1, 5, 8):
        x = np.random.default_rng(0).random((batch, 4), dtype=np.float32)
        (got,) = session.run(None, {"x": x})
        np.testing.assert_allclose(got, model(torch.from_numpy(x)).detach().numpy(), atol=1e-6)
