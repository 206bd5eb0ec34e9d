"""What an optimisation may ask for: read strictly, filled in, told in a line."""

from typing import Any

import pytest

from aios.client.optimizespec import optimization as run_of
from aios.client.runspec import parse
from aios.errors import InvalidArgument
from aios.trainer.v1 import run_pb2
from services.trainer import mapping, optimization

AT = "spec.hyperparameters"


def test_a_plan_is_filled_in_and_is_the_same_when_it_is_read_again() -> None:
    plan = optimization.read({"steps": ["prune", {"int8_static": {"samples": 64.0}}]})
    assert plan["steps"][1]["int8_static"] == {"samples": 64, "method": "minmax", "per_channel": True}
    assert plan["limits"]["points_lost"] == 1.0
    assert optimization.read(plan) == plan
    assert optimization.words(plan["steps"]) == "prune + int8_static(samples=64)"


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, f"{AT}.steps"),
        ({"steps": ["svd"], "search": {}}, f"{AT}.steps"),
        ({"steps": "svd"}, f"{AT}.steps"),
        ({"steps": ["squeeze"]}, f"{AT}.steps[0]"),
        ({"steps": ["int8_static", "svd"]}, f"{AT}.steps[1]"),
        ({"steps": ["int8_static", "float16"]}, f"{AT}.steps[1]"),
        ({"steps": [{"prune": {"share": 2}}]}, f"{AT}.steps[0].prune.share"),
        ({"steps": [{"prune": {"ratio": 0.5}}]}, f"{AT}.steps[0].prune.ratio"),
        ({"steps": ["prune"], "limits": {"lost": 1}}, f"{AT}.limits.lost"),
        ({"steps": ["prune"], "limit": {}}, f"{AT}.limit"),
        ({"search": {"trials": 0}}, f"{AT}.search.trials"),
    ],
)
def test_what_cannot_be_is_named(given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        optimization.read(given)
    assert list(raised.value.fields) == [field]


def test_an_optimize_file_becomes_a_run() -> None:
    given = {"dataset": "digits", "steps": ["int8_static"], "limits": {"smaller": 3}, "seed": 4}
    spec = parse(run_of("projects/p/models/digits/versions/3", given)).spec
    assert (spec.recipe, spec.model, spec.seed) == ("optimize", "digits-optimized", 4)
    assert spec.base_model == "projects/p/models/digits/versions/3"
    assert set(spec.hyperparameters) == {"steps", "limits"}


def test_an_unknown_key_of_an_optimize_file_is_named_with_the_likely_one() -> None:
    with pytest.raises(InvalidArgument, match="did you mean limits"):
        run_of("projects/p/models/digits/versions/3", {"limit": {}})


@pytest.mark.parametrize(("recipe", "base"), [("optimize", ""), ("image_classifier", "models/m/versions/1")])
def test_only_an_optimisation_starts_from_a_model_and_it_must(recipe: str, base: str) -> None:
    spec = run_pb2.RunSpec(recipe=recipe, dataset="datasets/digits", base_model=base)
    spec.hyperparameters.update({"steps": ["prune"]} if recipe == "optimize" else {})
    with pytest.raises(InvalidArgument) as raised:
        mapping.spec_from_proto(spec, {"dataset": "d", "base_model": base})
    assert list(raised.value.fields) == ["spec.base_model"]


def test_a_base_model_is_of_the_same_project() -> None:
    name = "projects/p/models/m/versions/latest"
    assert str(mapping.model_version_asked("p", "models/m/versions/latest")) == name
    for other in ("models/m", "projects/q/models/m/versions/1"):
        with pytest.raises(InvalidArgument):
            mapping.model_version_asked("p", other)


def test_an_optimisation_reads_its_model_and_says_so_again() -> None:
    spec = run_pb2.RunSpec(recipe="optimize", dataset="datasets/d", base_model="models/m/versions/@best")
    spec.hyperparameters.update({"steps": ["prune"]})
    found = mapping.spec_from_proto(
        spec, {"dataset": "projects/p/datasets/d/versions/1", "base_model": "projects/p/models/m/versions/3"}
    )
    assert found.inputs == ["projects/p/models/m/versions/3", "projects/p/datasets/d/versions/1"]
