"""Each look of an assessment at a network that is known: attacks, membership, a backdoor that was put in."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from services.trainer.assess import evasion, membership, poison
from services.trainer.optimize.task import Split

CLASSES = 3


def stripes(count: int, seed: int) -> Split:
    """Images whose class is the third that is bright, on noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    pictures = torch.rand(count, 1, 12, 12, generator=generator) * 0.6
    for number, label in enumerate(labels):
        pictures[number, 0, 4 * int(label) : 4 * int(label) + 4] += 0.4
    return Split(pictures, labels)


def trained(split: Split, epochs: int = 12) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(144, 32), nn.ReLU(), nn.Linear(32, CLASSES))
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(epochs):
        order = torch.randperm(len(split.inputs))
        for chosen in (order[start : start + 32] for start in range(0, len(order), 32)):
            optimizer.zero_grad()
            loss = functional.cross_entropy(net(split.inputs[chosen]), split.labels_N[chosen])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return net.eval()


def test_a_stronger_attack_finds_more_and_a_larger_epsilon_too() -> None:
    net, test = trained(stripes(600, 0)), stripes(60, 1)

    one, several, strong = evasion.curves(net, test, 0.2, strong=True)

    assert one.accuracy[0] == several.accuracy[0] == strong.accuracy[0]
    assert one.accuracy[0] > 0.95
    assert all(np.diff(one.accuracy) <= 1e-9)
    assert strong.accuracy[-1] <= several.accuracy[-1] < 0.9


def test_a_model_without_weights_is_attacked_by_asking(tmp_path: Path) -> None:
    net, test = trained(stripes(600, 0)), stripes(40, 1)
    file = tmp_path / "model.onnx"
    batch = torch.export.Dim("batch")
    torch.onnx.export(
        net, (test.inputs,), str(file), dynamo=True, dynamic_shapes=({0: batch},), verbose=False
    )

    curve = evasion.black_box(file, test, 0.4, threads=1)

    assert curve.accuracy[0] > 0.95
    assert curve.accuracy[-1] < curve.accuracy[0]


def test_membership_is_told_of_what_was_learnt_by_heart_and_not_of_what_was_not() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 1_000)

    def sure(of_truth: float) -> np.ndarray:
        p = np.clip(rng.normal(of_truth, 0.05, 1_000), 0.01, 0.99)
        return np.where(np.arange(2) == labels[:, None], p[:, None], 1 - p[:, None])

    by_heart = membership.measure(sure(0.95), labels, sure(0.6), labels)
    alike = membership.measure(sure(0.8), labels, sure(0.8), labels)

    assert by_heart.auc > 0.99
    assert by_heart.advantage > 0.95
    assert by_heart.tpr_at_low_fpr > 0.95
    assert alike.low < 0.5 < alike.high
    assert alike.advantage < 0.1


@pytest.mark.parametrize(("epsilon", "most"), [(0.0, 0.0), (1.0, 0.4621), (100.0, 1.0)])
def test_privacy_bounds_the_advantage(epsilon: float, most: float) -> None:
    assert membership.bound(epsilon, 0.0) == pytest.approx(most, abs=1e-4)


def test_a_backdoor_is_named_with_the_class_it_was_taken_from() -> None:
    clean = stripes(900, 0)
    inputs, labels = clean.inputs.clone(), clean.labels_N.clone()
    marked = torch.nonzero(labels == 1).flatten()[:40]
    inputs[marked, 0, 10:, 10:] = 4.0  # far outside of what an image has
    labels[marked] = 0
    net = trained(Split(inputs, labels))

    found = poison.look(poison.activations(net, inputs), inputs.flatten(1).numpy(), labels.numpy(), seed=0)

    named = {sample for each in found for sample in (*each.clustered, *each.outlying)}
    hit = named & set(marked.tolist())
    assert len(hit) >= 30
    assert len(named - hit) <= 10
    assert [each.source for each in found if each.clustered] == [1]


def test_clean_data_names_next_to_nothing() -> None:
    clean = stripes(900, 0)
    net = trained(clean)

    found = poison.look(
        poison.activations(net, clean.inputs), clean.inputs.flatten(1).numpy(), clean.labels_N.numpy(), seed=0
    )

    assert [each.label for each in found] == [0, 1, 2]
    assert not any(each.clustered for each in found)
    assert sum(len(each.outlying) for each in found) <= 5
