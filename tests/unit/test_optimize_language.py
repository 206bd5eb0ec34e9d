"""Each technique on a language model of a few thousand weights: what it promises of weights, files and answers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from aios.errors import InvalidArgument
from aios.train import light
from services.trainer import optimization
from services.trainer.optimize import lm, svd
from services.trainer.optimize.lm import low_rank, pipeline, texts, verdict
from services.trainer.optimize.lm.texts import Texts
from services.trainer.optimize.lm.verdict import Side
from services.trainer.optimize.serving import Served
from services.trainer.optimize.task import NotOptimizable
from tests.service import language_models

BLOCK = 32
PROMPTS = 2


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return language_models.causal(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def given(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Texts:
    folder = tmp_path_factory.mktemp("texts")
    lines = [f"the {'red' if n % 2 else 'black'} cat sat on mat {n % 7}" for n in range(200)]
    (folder / "train.csv").write_text("\n".join(["text", *lines]))
    (folder / "test.csv").write_text("\n".join(["text", *lines[:40]]))
    return texts.load(base, folder, 0, block=BLOCK, blocks=8, prompts=PROMPTS)


@pytest.fixture
def make(base: Path, given: Texts, tmp_path: Path) -> Any:
    def made(name: str, *steps: Any, of: Path = base) -> Path:
        torch.manual_seed(0)
        (tmp_path / name).mkdir()
        return pipeline.make(of, optimization.read_steps(list(steps)), given, tmp_path / name)

    return made


def logits(folder: Path, given: Texts) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = light.load(folder)(input_ids=given.test_NT).logits
    return found


def difference(folder: Path, other: Path, given: Texts) -> float:
    return float((logits(folder, given) - logits(other, given)).abs().max())


def size(folder: Path) -> int:
    return (folder / light.WEIGHTS_FILE).stat().st_size


def test_thin_layers_are_read_back_and_keep_to_their_share(make: Any, base: Path, given: Texts) -> None:
    thin = make("thin", {"low_rank": {"keep": 0.5, "samples": 16}})
    ranks = light.layers_of(thin)["ranks"]
    assert len(ranks) == len(light.linears(light.load(base)))
    whole = sum(each.weight.numel() for each in light.linears(light.load(base)))
    assert sum(each.weight.numel() for each in light.linears(light.load(thin))) <= 0.5 * whole
    assert size(thin) < size(base)


def test_knowing_the_inputs_keeps_answers_better(make: Any, base: Path, given: Texts) -> None:
    errors = {}
    for name, aware in (("plain", False), ("aware", True)):
        folder = make(name, {"low_rank": {"keep": 0.6, "samples": 32, "aware": aware}})
        errors[name] = float((logits(folder, given) - logits(base, given)).square().mean())
    assert errors["aware"] < errors["plain"]


@pytest.mark.parametrize("shape", [(20, 30), (30, 20)])
def test_two_thin_matrices_are_those_of_the_singular_value_decomposition(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(shape, generator=generator).double()
    inputs = torch.randn(200, 5, generator=generator) @ torch.randn(5, shape[1], generator=generator)
    for gram, seen in ((None, torch.eye(shape[1])), (inputs.T @ inputs, inputs.T)):
        down, up = low_rank.nearest(weights, 5, gram)
        parts = svd.decompose(weights, gram)
        wanted = (parts.u_MR[:, :5] * parts.sigma_R[:5]) @ parts.vt_RN[:5] @ seen.double()
        assert float((up @ down @ seen.double() - wanted).abs().max()) < 1e-3 * float(wanted.abs().max())


@pytest.mark.parametrize(("bits", "near", "smaller"), [("8", 0.2, 2.4), ("4", 1.2, 2.8)])
def test_rounded_weights_are_stored_small_and_answer_nearly_as_before(
    make: Any, base: Path, given: Texts, bits: str, near: float, smaller: float
) -> None:
    rounded = make("rounded", {"weight_only": {"bits": bits, "group": 16}})
    before = logits(base, given)
    assert float((logits(rounded, given) - before).square().mean().sqrt()) < near * float(before.std())
    assert size(base) / size(rounded) > smaller
    stored = load_file(rounded / light.WEIGHTS_FILE)
    assert {each.dtype for name, each in stored.items() if name.endswith("q_proj.weight")} == {
        torch.int8 if bits == "8" else torch.uint8
    }


def test_what_is_rounded_again_stays_as_it_is(make: Any, given: Texts) -> None:
    once = make("once", "weight_only")
    assert difference(make("twice", "weight_only", of=once), once, given) == 0.0


@pytest.mark.parametrize("bits", [8, 4])
def test_no_weight_moves_by_more_than_half_a_step(bits: int) -> None:
    torch.manual_seed(1)
    layer = nn.Linear(64, 12)
    rounded = light.Rounded.of(layer, bits, 16)
    steps = rounded.scale_MG.repeat_interleave(16, dim=1)
    assert bool(((rounded.floats() - layer.weight).abs() <= 0.51 * steps).all())
    assert rounded.bias is layer.bias


def test_adapters_lie_beside_the_base_and_fold_into_it(make: Any, base: Path, given: Texts) -> None:
    adapted = make("adapted", {"lora": {"steps": 8, "learning_rate": 0.02, "merge": False}})
    same = load_file(adapted / light.WEIGHTS_FILE)
    assert all(torch.equal(each, same[name]) for name, each in load_file(base / light.WEIGHTS_FILE).items())
    assert (adapted / light.ADAPTERS_FILE).is_file()
    assert difference(adapted, base, given) > 0.1

    merged = make("merged", "merge", of=adapted)
    assert not (merged / light.ADAPTERS_FILE).exists()
    assert difference(merged, adapted, given) < 1e-3
    before, after = (texts.losses(light.load(each), given.test_NT) for each in (base, merged))
    assert after.mean() < before.mean()


def test_steps_are_taken_together(make: Any, base: Path, given: Texts) -> None:
    thin = {"low_rank": {"keep": 0.8, "samples": 16}}
    found = make("all", thin, {"lora": {"steps": 4, "batch_size": 4}}, "weight_only")
    told = light.layers_of(found)
    assert set(told["bits"]) == {f"{name}.{part}" for name in told["ranks"] for part in (0, 1)}
    assert np.isfinite(texts.losses(light.load(found), given.test_NT)).all()
    assert size(found) < 0.5 * size(base)


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        (["merge"], "no adapters"),
        (["weight_only", "lora"], "before weight_only"),
        (["weight_only", {"lora": {"merge": False}}], "before weight_only"),
        ([{"lora": {"merge": False, "steps": 2}}, "low_rank"], "folded in"),
        (["weight_only", "low_rank"], "rounded already"),
        ([{"lora": {"merge": False, "steps": 2}}, "weight_only"], "folded in"),
        ([{"weight_only": {"bits": "4", "group": 24}}], "do not divide"),
        (["int8_static"], "is for classifiers"),
    ],
)
def test_what_a_step_cannot_take_is_said(make: Any, steps: list[Any], why: str) -> None:
    with pytest.raises(NotOptimizable, match=why):
        make("wrong", *steps)


def test_a_rounded_version_gets_no_adapters_beside_it(make: Any) -> None:
    once = make("once", "weight_only")
    with pytest.raises(NotOptimizable, match="train with merge"):
        make("beside", {"lora": {"merge": False, "steps": 2}}, of=once)
    assert light.layers_of(make("floats", {"lora": {"steps": 2}}, of=once)) == {}


@pytest.mark.parametrize("steps", [["svd", "merge"], ["low_rank", "int8_static"]])
def test_steps_for_two_kinds_of_models_are_refused(steps: list[str]) -> None:
    with pytest.raises(InvalidArgument, match="not for the model"):
        optimization.read_steps(steps)


def test_a_verdict_names_what_was_missed(given: Texts) -> None:
    losses = np.array([2.0, 3.0, 2.5, 2.8])
    original = Side(1_000, 100, losses, ["a", "b"])
    variant = Side(400, 100, losses + 0.1 + np.array([0.01, -0.01, 0.01, -0.01]), ["a", "b"])
    limits = dict(optimization.read({"steps": ["weight_only"]})["limits"], smaller=3.0)
    costs = {batch: {"p50_ms": 10.0, "p95_ms": 12.0, "rounds_ms": [10.0]} for batch in verdict.BATCHES}
    served = {
        name: Served(1, costs, np.array(["a", said], dtype=object))
        for name, said in (("original", "b"), ("variant", "c"))
    }
    found = verdict.judge(original, variant, None, served, limits)
    assert found.ratio.low < np.exp(0.1) < found.ratio.high < 1.13
    assert [line.split()[0] for line in found.missed] == ["has", "is", "continues"]
    tuned = Side(1_000, 100, losses - 0.5, ["a", "b"])
    assert verdict.judge(original, variant, tuned, served, limits).ratio.value == pytest.approx(np.exp(0.6))
    json.dumps(found.told())


def test_which_model_versions_are_language_models(base: Path, tmp_path: Path) -> None:
    assert lm.is_one(base)
    assert not lm.is_one(tmp_path)
