"""Each technique on a small network: what it promises of weights and answers, and the verdict's arithmetic."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from aios.common.v1 import tensor_pb2
from services.trainer import optimization
from services.trainer.job import result
from services.trainer.job.evaluate import wilson
from services.trainer.optimize import (
    attack,
    count,
    distill,
    ensemble,
    fine_tune,
    gate,
    harden,
    networks,
    pipeline,
    prune,
    pt2e,
    sparsify,
    svd,
    task,
    verdict,
)
from services.trainer.optimize.count import Size
from services.trainer.optimize.networks import Net
from services.trainer.optimize.pipeline import Original
from services.trainer.optimize.serving import Served
from services.trainer.optimize.task import Split, Task
from services.trainer.optimize.verdict import Side

SHAPE = {"recipe": "image_classifier", "classes": 3, "size": [12, 12], "channels": [8, 16, 16], "hidden": 256}


def settings(technique: str, **given: Any) -> dict[str, Any]:
    return dict(optimization.read_steps([{technique: given}])[0][technique])


def images(count: int, seed: int) -> Split:
    """One of three bars on noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (count,), generator=generator)
    pictures = torch.rand(count, 1, 12, 12, generator=generator) * 0.5
    for number, label in enumerate(labels):
        pictures[number, 0, 4 * int(label) + 1] += 0.5
    return Split(pictures, labels)


@pytest.fixture(scope="module")
def given() -> Task:
    tensors = tensor_pb2.Signature(
        inputs=[tensor_pb2.TensorSpec(name="image", datatype="FP32", shape=[1, 12, 12])],
        outputs=[tensor_pb2.TensorSpec(name="logits", datatype="FP32", shape=[3])],
        max_batch_size=64,
    )
    return Task(
        tensors, images(600, 0), images(200, 1), images(200, 2), images=True, seed=0, rows_N=torch.arange(600)
    )


@pytest.fixture(scope="module")
def net(given: Task) -> Net:
    torch.manual_seed(0)
    made = networks.build(SHAPE)
    fine_tune.fit(made, given, settings("fine_tune", epochs=3), _cross_entropy)
    assert task.accuracy(made.module, given.test) > 0.9
    return made


def _cross_entropy(_: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits, labels)


@pytest.fixture(scope="module")
def original(given: Task, net: Net, tmp_path_factory: pytest.TempPathFactory) -> Original:
    folder = tmp_path_factory.mktemp("original")
    pipeline.export(net, given, folder)
    net.save(folder)
    return Original(folder, folder / "model.onnx", given)


def test_a_network_is_built_again_from_what_it_leaves(net: Net, given: Task, tmp_path: Path) -> None:
    small = svd.apply(net, given, settings("svd", rank="budget", keep=0.4))
    assert small.description["ranks"]
    small.save(tmp_path)
    again = networks.load(tmp_path)
    assert torch.equal(
        task.logits(again.module, given.test.inputs), task.logits(small.module, given.test.inputs)
    )
    assert (tmp_path / result.WEIGHTS_FILE).stat().st_size < 4 * net.parameters


@pytest.mark.parametrize("rank", ["budget", "sensitivity"])
def test_low_rank_keeps_to_its_budget(net: Net, given: Task, rank: str) -> None:
    small = svd.apply(net, given, settings("svd", rank=rank, keep=0.4))
    assert small.parameters <= 0.4 * net.parameters


def test_all_of_the_energy_is_the_network_itself(net: Net, given: Task) -> None:
    same = svd.apply(net, given, settings("svd", energy=1.0))
    difference = task.logits(same.module, given.test.inputs) - task.logits(net.module, given.test.inputs)
    assert float(difference.abs().max()) < 1e-3


def test_knowing_the_inputs_keeps_the_outputs_better_even_where_they_have_not_full_rank() -> None:
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(20, 30, generator=generator)
    inputs = torch.randn(200, 5, generator=generator) @ torch.randn(5, 30, generator=generator)
    errors = []
    for gram in (None, inputs.T @ inputs):
        parts = svd.decompose(weights, gram)
        near = ((parts.u_MR[:, :5] * parts.sigma_R[:5]) @ parts.vt_RN[:5]).float()
        errors.append(float((inputs @ (weights - near).T).square().sum()))
    assert errors[1] < 1e-3 * errors[0]


def test_pruning_takes_whole_channels(net: Net, given: Task) -> None:
    pruned = prune.apply(net, given, settings("prune", share=0.5))
    assert (pruned.description["channels"], pruned.description["hidden"]) == ([4, 8, 8], 128)
    assert task.logits(pruned.module, given.test.inputs).shape == (200, 3)


def test_what_is_zero_stays_zero(net: Net, given: Task) -> None:
    sparse = sparsify.apply(net, given, settings("sparsify", share=0.6))
    tuned = sparse.copy()
    fine_tune.fit(tuned, given, settings("fine_tune", samples=128), _cross_entropy)
    for module in (sparse.module, tuned.module):
        weights = torch.cat([each.weight.flatten() for each in networks.layers(module).values()])
        assert float((weights == 0).float().mean()) == pytest.approx(0.6, abs=0.01)


def test_what_is_zero_stays_zero_where_it_is_trained_with_its_rounding(net: Net, given: Task) -> None:
    sparse = sparsify.apply(net, given, settings("sparsify", share=0.6))
    with pt2e.quiet():
        prepared = pt2e.prepare(sparse, given, 64, trains=True)
        fine_tune.fit(Net(prepared), given, settings("qat", samples=128), _cross_entropy)
    weights = torch.cat([each.flatten() for each in prepared.parameters() if each.dim() > 1])
    assert float((weights == 0).float().mean()) == pytest.approx(0.6, abs=0.01)


def test_an_original_is_trained_as_long_as_all_that_trained_the_variant() -> None:
    steps = [{"ensemble": {"members": 3, "epochs": 2}}, {"distill": {"epochs": 4}}]
    assert pipeline.epochs(optimization.read_steps(steps)) == 2 * 2 + 4


def test_the_better_of_before_and_after_is_kept(net: Net, given: Task) -> None:
    ruined = settings("fine_tune", learning_rate=5.0, samples=64)
    assert fine_tune.apply(net, given, ruined) is net


def test_an_attack_stays_within_its_ball_and_training_against_it_helps(net: Net, given: Task) -> None:
    inputs, labels = given.test.inputs[:50], given.test.labels_N[:50]
    for steps in (1, 7):
        moved = attack.perturb(net.module, inputs, labels, 0.1, steps)
        assert float((moved - inputs).abs().max()) <= 0.1 + 1e-6
        assert float(moved.min()) >= 0
        assert float(moved.max()) <= 1
    hard = harden.apply(net, given, settings("harden", epsilon=0.15, epochs=2))
    before, after = (attack.accuracy(each.module, given.test, 0.15, 200) for each in (net, hard))
    assert after > before + 0.05
    assert before < task.accuracy(net.module, given.test)


def test_a_student_is_as_small_as_it_was_asked_to_be(net: Net, given: Task) -> None:
    assert distill.derive(net, 4.0).parameters <= net.parameters / 4
    student = distill.apply(net, given, settings("distill", smaller=4.0, epochs=4, learning_rate=0.01))
    assert task.accuracy(student.module, given.test) > 0.5


@pytest.mark.parametrize(
    ("steps", "smaller", "tolerance"),
    [
        (["int8_static"], 2.0, 1.0),
        (["int8_dynamic"], 2.0, 1.0),
        (["float16"], 1.5, 0.05),
        (["pt2e"], 2.0, 1.0),
        ([{"qat": {"learning_rate": 1e-5, "samples": 128}}], 2.0, 1.0),
    ],
)
def test_a_file_of_fewer_bits_answers_almost_the_same(
    original: Original, tmp_path: Path, steps: list[Any], smaller: float, tolerance: float
) -> None:
    made = pipeline.make(original, optimization.read_steps(steps), tmp_path / "made")
    inputs = original.task.test.inputs
    before, after = (task.answers(file, inputs, 1) for file in (original.file, made.file))
    assert float(np.abs(before - after).max()) < tolerance
    assert original.file.stat().st_size > smaller * made.file.stat().st_size
    assert onnxruntime.InferenceSession(str(made.file)).get_inputs()[0].type == "tensor(float)"
    assert bool(made.calibration) is (steps not in (["int8_dynamic"], ["float16"]))


@pytest.mark.parametrize("kind", ["snapshots", "seeds"])
def test_an_ensemble_answers_with_the_mean_of_its_members_and_is_built_again(
    net: Net, given: Task, tmp_path: Path, kind: str
) -> None:
    made = ensemble.apply(net, given, settings("ensemble", kind=kind, members=2, samples=128))
    inputs = given.test.inputs
    members = [
        task.logits(each, inputs).softmax(1) for each in made.module.get_submodule("members").children()
    ]
    assert torch.equal(members[0], task.logits(net.module, inputs).softmax(1))
    assert not torch.equal(*members)
    answers = task.logits(made.module, inputs)
    assert torch.allclose(answers.exp(), torch.stack(members).mean(0), atol=1e-6)
    made.save(tmp_path)
    assert torch.equal(task.logits(networks.load(tmp_path).module, inputs), answers)
    assert distill.derive(made, 8.0).parameters <= made.parameters / 8
    with pytest.raises(task.NotOptimizable, match="distil it first"):
        prune.apply(made, given, settings("prune"))


def test_a_stack_begins_as_the_mean_and_is_kept_where_it_knows_better(net: Net, given: Task) -> None:
    blind = networks.build(SHAPE).module.eval()
    together = networks.Ensemble([net.module, blind]).eval()
    wrong = Split(given.validation.inputs, (given.validation.labels_N + 1) % 3)
    stacked = ensemble.stack(together, 3, wrong)
    assert stacked is not None
    assert task.accuracy(stacked, wrong) > 0.9 > task.accuracy(together, wrong)
    assert ensemble.stack(networks.Ensemble([net.module, net.module]).eval(), 3, given.validation) is None


@pytest.mark.parametrize("step", [{"cascade": {"smaller": 4.0}}, {"early_exit": {"samples": 64}}])
def test_a_sample_takes_the_rest_of_the_network_only_where_it_is_unsure(
    original: Original, tmp_path: Path, step: dict[str, Any]
) -> None:
    made = pipeline.make(original, optimization.read_steps([step]), tmp_path / "made")
    inputs = original.task.test.inputs
    sure = gate.asked(made.file, inputs)
    (middle,) = gate.thresholds(sure, [0.4])
    levels = {"first": 0.0, "mixed": middle, "all": 1.01}
    files = {name: gate.at(made.file, level, tmp_path / name) for name, level in levels.items()}
    first, mixed, every = (task.answers(file, inputs, 1) for file in files.values())
    assert np.allclose(every, task.answers(original.file, inputs, 1), atol=1e-4)
    unsure = sure < middle
    assert 0 < unsure.sum() < len(unsure)
    assert np.allclose(mixed, np.where(unsure[:, None], every, first), atol=1e-4)
    assert np.allclose(task.opened(files["mixed"], 1)(inputs[:1]), mixed[:1], atol=1e-4)
    assert count.size(made.file).parameters > count.size(original.file).parameters


def test_weights_and_products_are_counted(original: Original, net: Net) -> None:
    found = count.size(original.file)
    convolutions = 144 * 9 * 8 + 36 * 9 * 8 * 16 + 36 * 9 * 16 * 16
    assert found.macs == convolutions + 16 * 9 * 256 + 256 * 3
    assert abs(found.parameters - net.parameters) <= 2 * (8 + 16 + 16)  # of the norms that are folded in


def side(accuracy: int, size: int, answers: list[int]) -> Side:
    scores = np.eye(3)[answers]
    return Side("x", Size(10, 10, 10, size), wilson(accuracy, 100), [1.0] * 3, 0.0, np.array(answers), scores)


def served(milliseconds: float, answers: list[int]) -> Served:
    rounds = [milliseconds, milliseconds * 1.1]
    costs = {"p50_ms": milliseconds, "p95_ms": 2 * milliseconds, "rounds_ms": rounds}
    return Served(1, {32: costs}, np.eye(3)[answers])


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        ({}, []),
        ({"points_lost": 1.9}, ["lost 2.00 points"]),
        ({"smaller": 5.0}, ["is 4.00 times smaller"]),
        ({"slower": 0.4}, ["takes 0.50 times as long"]),
        ({"p95_ms": 3.0}, ["has a p95 of 4.00 ms"]),
    ],
)
def test_a_verdict_names_every_limit_that_was_missed(changed: dict[str, float], missed: list[str]) -> None:
    limits = {**optimization.read({"search": {}})["limits"], "points_lost": 2.0, **changed}
    found = verdict.judge(
        side(92, 400, [0, 1, 2]),
        side(90, 100, [0, 1, 1]),
        None,
        {"original": served(4.0, [0, 1, 2]), "variant": served(2.0, [0, 1, 1])},
        limits,
    )
    assert [text.partition(",")[0].partition(" at batch")[0] for text in found.missed] == missed
    assert found.agreement == pytest.approx(2 / 3)


def test_a_variant_that_was_trained_further_is_compared_with_an_original_that_was_too() -> None:
    limits = optimization.read({"search": {}})["limits"]
    both = {"original": served(4.0, [0, 1, 2]), "variant": served(2.0, [0, 1, 1])}
    found = verdict.judge(
        side(92, 400, [0, 1, 2]), side(91, 100, [0, 1, 1]), side(95, 400, [0, 1, 2]), both, limits
    )
    assert found.points_lost == pytest.approx(4.0)
    assert not found.passed


def test_what_answers_otherwise_through_triton_is_refused() -> None:
    limits = optimization.read({"search": {}})["limits"]
    both = {"original": served(4.0, [0, 1, 2]), "variant": served(2.0, [2, 0, 0])}
    found = verdict.judge(side(92, 400, [0, 1, 2]), side(92, 100, [0, 1, 1]), None, both, limits)
    assert found.missed == ("answers otherwise through Triton than it did when it was made",)
