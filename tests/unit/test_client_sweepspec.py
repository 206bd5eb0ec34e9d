"""What sweep.yaml may say, and what is refused with the key that is wrong."""

from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from aios.client.sweepspec import parse
from aios.errors import InvalidArgument
from aios.trainer.v1 import sweep_pb2

RUN = {"recipe": "mlp", "dataset": "digits", "hyperparameters": {"epochs": 3}}
FILE: dict[str, Any] = {"run": RUN, "space": {"width": [16, 32]}, "metric": "test_accuracy"}


def test_a_whole_file_is_read() -> None:
    found = parse(
        {
            **FILE,
            "name": "s",
            "space": {
                "learning_rate": {"low": 0.001, "high": 0.1, "log": True},
                "layers": {"low": 1, "high": 3},
                "width": [32, 64],
                "dropout": {"low": 0, "high": 0.5, "when": {"width": 64}},
            },
            "goal": "minimize",
            "sampler": {"kind": "tpe", "seed": 4},
            "pruner": "asha",
            "parallelism": 3,
            "budget": {"trials": 9, "time": "15m"},
            "first": [{"width": 32}],
        }
    )
    spec = found.spec
    assert (found.sweep_id, spec.run.dataset, spec.parallelism) == ("s", "datasets/digits", 3)
    rate, layers, width, dropout = spec.parameters
    assert (rate.range.log, rate.range.whole, layers.range.whole, dropout.range.whole) == (
        True,
        False,
        True,
        False,
    )
    assert list(width.values) == [32, 64]
    assert MessageToDict(dropout)["when"] == {"width": [64.0]}
    assert spec.objectives[0].goal == sweep_pb2.Objective.GOAL_MINIMIZE
    assert (spec.sampler.kind, spec.sampler.seed, spec.pruner.kind) == ("tpe", 4, "asha")
    assert (spec.budget.trials, spec.budget.time.seconds) == (9, 900)
    assert spec.first[0]["width"] == 32


def test_several_objectives_each_have_their_goal() -> None:
    several = [{"metric": "accuracy"}, {"metric": "size", "goal": "minimize"}]
    spec = parse({"run": RUN, "space": {"width": [1]}, "objectives": several}).spec
    assert [each.goal for each in spec.objectives] == [
        sweep_pb2.Objective.GOAL_MAXIMIZE,
        sweep_pb2.Objective.GOAL_MINIMIZE,
    ]


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"sampel": "tpe"}, "sampel"),
        ({"run": None}, "run"),
        ({"space": {}}, "space"),
        ({"space": {"width": 3}}, "space.width"),
        ({"space": {"width": {"low": 1}}}, "space.width.high"),
        ({"space": {"width": {"low": 1, "high": 2, "lgo": True}}}, "space.width.lgo"),
        ({"space": {"width": {"values": [1], "low": 1}}}, "space.width"),
        ({"metric": None}, "metric"),
        ({"objectives": [{"metric": "a"}]}, "metric"),
        ({"goal": "most"}, "objectives[0]"),
        ({"budget": {"time": "soon"}}, "budget.time"),
        ({"budget": {"trails": 3}}, "budget.trails"),
        ({"budget": 3}, "budget"),
        ({"pruner": {"frist": 1}}, "pruner"),
        ({"parallelism": "two"}, "parallelism"),
        ({"name": 3}, "name"),
    ],
)
def test_what_is_wrong_is_named(wrong: dict[str, Any], key: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse({**FILE, **wrong})
    assert key in refused.value.fields
