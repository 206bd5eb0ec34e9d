"""DP-SGD on a small network: what a sample can change is bounded, the rest is noise, and ε survives a kill."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from services.trainer.job.privacy import PrivacyChanged, Private

SAMPLES, BATCH, EPOCHS = 400, 40, 4


def parts(epsilon: float = 8.0, clip: float = 1.0) -> tuple[nn.Module, torch.optim.Optimizer, Private]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    private = Private(
        model,
        optimizer,
        samples=SAMPLES,
        batch_size=BATCH,
        epochs=EPOCHS,
        epsilon=epsilon,
        delta=1e-3,
        clip=clip,
    )
    return model, optimizer, private


@pytest.fixture
def table() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    x = torch.randn(SAMPLES, 8)
    return x, (x[:, 0] > 0).long()


def fit(
    model: nn.Module, private: Private, table: tuple[torch.Tensor, torch.Tensor], first: int, last: int
) -> None:
    x, y = table
    for step, _, chosen in private.batches(first):
        private.clear()
        if len(chosen):
            functional.cross_entropy(model(x[chosen]), y[chosen]).backward()  # type: ignore[no-untyped-call]
        else:
            private.nothing_drawn()
        private.step()
        if step == last:
            return


def test_it_learns_and_spends_what_was_allowed(table: tuple[torch.Tensor, torch.Tensor]) -> None:
    model, _, private = parts()

    fit(model, private, table, 0, EPOCHS * 10)

    with torch.no_grad():
        right = float((model(table[0]).argmax(1) == table[1]).float().mean())
    assert right > 0.8
    assert 7.5 < private.epsilon <= 8.01
    private.finish()


def test_epsilon_is_the_same_with_and_without_a_kill(
    table: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    model, _, whole = parts()
    fit(model, whole, table, 0, EPOCHS * 10)

    model, _, killed = parts()
    fit(model, killed, table, 0, 17)
    killed.save(tmp_path)
    fit(model, killed, table, 17, 23)  # these steps are lost
    model, _, resumed = parts()
    resumed.restore(tmp_path)
    fit(model, resumed, table, 17, EPOCHS * 10)

    assert resumed.epsilon == whole.epsilon


def test_a_checkpoint_of_other_noise_is_refused(
    table: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    model, _, private = parts(epsilon=8.0)
    fit(model, private, table, 0, 3)
    private.save(tmp_path)

    _, _, other = parts(epsilon=2.0)

    with pytest.raises(PrivacyChanged, match="start a new run"):
        other.restore(tmp_path)
    with pytest.raises(PrivacyChanged):
        other.restore(tmp_path / "nowhere")


def test_one_sample_moves_the_sum_of_gradients_by_no_more_than_the_clip() -> None:
    model, _, private = parts(clip=0.01)
    private._optimizer.noise_multiplier = 0.0
    before = [each.detach().clone() for each in model.parameters()]

    loss = functional.cross_entropy(model(torch.full((1, 8), 100.0)), torch.tensor([1])) * 1_000
    loss.backward()  # type: ignore[no-untyped-call]
    private.step()

    moved = torch.cat([(old - new).flatten() for old, new in zip(before, model.parameters(), strict=True)])
    assert float(moved.detach().norm()) <= 0.5 * 0.01 / BATCH * 1.001
    assert float(moved.detach().norm()) > 0


def test_batches_and_noise_are_not_those_of_the_seed() -> None:
    _, _, one = parts()
    _, _, other = parts()

    drawn = [[set(chosen.tolist()) for _, _, chosen in each.batches(0)] for each in (one, other)]

    assert drawn[0] != drawn[1]
    assert BATCH * 0.8 < sum(map(len, drawn[0])) / len(drawn[0]) < BATCH * 1.2


def test_a_step_without_samples_is_noise_alone() -> None:
    model, _, private = parts()
    before = next(model.parameters()).detach().clone()

    private.clear()
    private.nothing_drawn()
    private.step()

    assert not torch.equal(before, next(model.parameters()))
