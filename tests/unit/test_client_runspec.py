"""run.yaml is read strictly."""

from typing import Any

import pytest

from aios.client.runspec import amount, override, parse
from aios.errors import InvalidArgument
from aios.trainer.v1 import run_pb2

GOOD: dict[str, Any] = {
    "name": "digits-1",
    "recipe": "image_classifier",
    "dataset": "datasets/digits",
    "model": "digits",
    "seed": 7,
    "max_restarts": 0,
    "hyperparameters": {"epochs": 8, "anything": {"the": ["recipe", "knows"]}},
    "resources": {"cpu": 1.5, "memory": "2GiB", "accelerators": {"gpu": 1}},
}


def test_every_key_reaches_the_message() -> None:
    read = parse(GOOD)
    assert read.run_id == "digits-1"
    assert read.spec.recipe == "image_classifier"
    assert read.spec.hyperparameters["epochs"] == 8
    assert read.spec.resources.cpu_millis == 1500
    assert read.spec.resources.memory_bytes == 2 << 30
    assert dict(read.spec.resources.accelerators) == {"gpu": 1}
    assert read.spec.HasField("max_restarts")
    assert read.spec.max_restarts == 0


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("digits", "datasets/digits"),
        ("digits/ab12", "datasets/digits/versions/ab12"),
        ("datasets/digits", "datasets/digits"),
        ("datasets/digits/versions/ab12", "datasets/digits/versions/ab12"),
        ("projects/p/datasets/digits", "projects/p/datasets/digits"),
    ],
)
def test_a_dataset_may_be_named_shortly(text: str, name: str) -> None:
    assert parse({**GOOD, "dataset": text}).spec.dataset == name


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"command": "python train.py --lr 0.1 --name 'a b'"},
            ["python", "train.py", "--lr", "0.1", "--name", "a b"],
        ),
        ({"command": ["python", "train.py", "--lr", 0.1]}, ["python", "train.py", "--lr", "0.1"]),
        ({"entry": "train.py"}, ["python", "train.py"]),
    ],
)
def test_a_command_is_words_a_line_or_a_file_that_python_runs(
    given: dict[str, Any], words: list[str]
) -> None:
    read = parse(
        {**given, "code": "src", "datasets": {"extra": "more"}, "environment": {"N": 3}, "stop_grace": 1.5}
    )
    assert list(read.spec.command) == words
    assert (read.code, read.spec.dataset) == ("src", "")
    assert (dict(read.spec.datasets), dict(read.spec.environment)) == ({"extra": "datasets/more"}, {"N": "3"})
    assert read.spec.stop_grace.ToMilliseconds() == 1500


def test_what_is_not_said_is_left_to_the_service() -> None:
    spec = parse({"recipe": "image_classifier", "dataset": "digits"}).spec
    assert not spec.HasField("resources")
    assert not spec.HasField("max_restarts")


@pytest.mark.parametrize(
    ("change", "field", "advice"),
    [
        ({"datset": "x"}, "datset", "did you mean dataset?"),
        ({"hyperparams": {}}, "hyperparams", "did you mean hyperparameters?"),
        ({"zzz": 1}, "zzz", "known: name, recipe"),
        ({"recipe": ""}, "recipe", "is required"),
        ({"command": "python x.py"}, "command", "this names a recipe"),
        ({"recipe": "", "command": "python 'x"}, "command", "cannot be split"),
        ({"recipe": "", "command": {"a": 1}}, "command", "must be words"),
        ({"recipe": "", "command": "x", "entry": "y"}, "entry", "keep one"),
        ({"recipe": "", "command": "x", "environment": [1]}, "environment", "names with text"),
        ({"stop_grace": "soon"}, "stop_grace", "seconds"),
        ({"seed": "seven"}, "seed", "whole number"),
        ({"seed": True}, "seed", "whole number"),
        ({"seed": -1}, "seed", "whole number"),
        ({"model": 3}, "model", "must be text"),
        ({"hyperparameters": [1]}, "hyperparameters", "keys with values"),
        ({"resources": {"cpus": 1}}, "resources.cpus", "did you mean cpu?"),
        ({"resources": {"memory": "2 gigs"}}, "resources.memory", "512MiB"),
        ({"resources": "all"}, "resources", "cpu, memory"),
        ({"resources": {"accelerators": "gpu"}}, "resources.accelerators", "{gpu: 1}"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_what_to_write(
    change: dict[str, Any], field: str, advice: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse({**GOOD, **change})
    assert advice in refused.value.fields[field]


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse({"recipee": "x", "seed": "y"})
    assert set(refused.value.fields) == {"recipee", "recipe", "seed"}


def test_a_value_is_replaced_at_its_path_and_the_file_stays_as_it_was() -> None:
    changed = override(GOOD, {"hyperparameters.epochs": 2, "resources.cpu": 1, "description": "short"})
    assert changed["hyperparameters"] == {"epochs": 2, "anything": {"the": ["recipe", "knows"]}}
    assert changed["description"] == "short"
    assert GOOD["hyperparameters"]["epochs"] == 8
    with pytest.raises(InvalidArgument, match="one value"):
        override(GOOD, {"seed.x": 1})


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("2", 1, 2),
        ("1.5", 1000, 1500),
        ("512MiB", 1, 512 << 20),
        ("1Gi", 1, 1 << 30),
        ("3 k", 1, 3000),
        (2, 1000, 2000),
    ],
)
def test_amounts(text: str, unit: int, value: int) -> None:
    assert amount(text, "x", unit) == value


def test_scheduling_is_read_in_the_words_of_people() -> None:
    read = parse(
        {
            "recipe": "image_classifier",
            "dataset": "digits",
            "priority": 5,
            "queue": "research",
            "scheduling": {
                "weight": 2,
                "expected_duration": "1.5h",
                "max_run_time": "2h",
                "min_run_time": 90,
                "preemptible": False,
                "deadline": "2030-01-31 18:00+01:00",
                "node_selector": {"zone": "a"},
                "node_preference": {"disk": "ssd"},
                "tolerations": {"for": "lab"},
                "speeds": {"gpu/H100": 4},
            },
        }
    ).spec
    assert (read.priority, read.queue) == (5, "queues/research")
    said = read.scheduling
    assert said.expected_duration.seconds == 5400
    assert said.min_run_time.seconds == 90
    assert (said.weight, said.preemptible, said.HasField("preemptible")) == (2, False, True)
    assert said.deadline.ToDatetime().isoformat() == "2030-01-31T17:00:00"
    assert (dict(said.node_selector), dict(said.speeds)) == ({"zone": "a"}, {"gpu/H100": 4.0})
    assert (dict(said.node_preference), dict(said.tolerations)) == ({"disk": "ssd"}, {"for": "lab"})


def test_every_wrong_word_of_scheduling_is_named() -> None:
    wrong = {"wieght": 1, "max_run_time": "soon", "preemptible": "maybe", "speeds": [1], "deadline": "never"}
    with pytest.raises(InvalidArgument) as raised:
        parse({"recipe": "image_classifier", "dataset": "digits", "scheduling": wrong})
    assert raised.value.fields.keys() == {f"scheduling.{key}" for key in wrong}
    assert "did you mean weight" in raised.value.fields["scheduling.wieght"]


def test_ranks_and_the_nodes_network_are_asked_for_in_words() -> None:
    spec = parse(
        {"entry": "train.py", "launcher": "torchrun", "processes": 2, "hang_timeout": "2m", "network": "node"}
    ).spec
    assert (spec.launcher, spec.processes, spec.hang_timeout.seconds, spec.node_network) == (
        run_pb2.RunSpec.LAUNCHER_TORCHRUN,
        2,
        120,
        True,
    )
    wrong = {
        "entry": "train.py",
        "launcher": "mpi",
        "processes": -1,
        "hang_timeout": "soon",
        "network": "open",
    }
    with pytest.raises(InvalidArgument) as refused:
        parse(wrong)
    assert refused.value.fields.keys() == wrong.keys() - {"entry"}
    with pytest.raises(InvalidArgument, match="is for a command"):
        parse({"recipe": "mlp", "network": "node"})


def test_a_share_of_a_device_is_less_than_one_and_may_say_its_memory() -> None:
    given = {"accelerators": {"gpu/H100": 0.25}, "accelerator_memory": "10GiB"}
    read = parse({**GOOD, "resources": given}).spec.resources
    assert dict(read.accelerators) == {}
    assert dict(read.accelerator_millis) == {"gpu/H100": 250}
    assert dict(read.accelerator_memory_bytes) == {"gpu/H100": 10 << 30}


@pytest.mark.parametrize(
    ("resources", "field", "problem"),
    [
        ({"accelerators": {"gpu": 1.5}}, "resources.accelerators.gpu", "say 2, or less than 1"),
        ({"accelerators": {"gpu": 0}}, "resources.accelerators.gpu", "such as 0.5"),
        ({"accelerators": {"gpu": True}}, "resources.accelerators.gpu", "such as 0.5"),
        ({"accelerators": {"gpu": float("nan")}}, "resources.accelerators.gpu", "such as 0.5"),
        ({"accelerators": {"gpu": 1e-9}}, "resources.accelerators.gpu", "at least 0.001"),
        ({"accelerators": {"cpu": 0.5}}, "resources.accelerators.cpu", "beside `accelerators`"),
        ({"accelerators": {"gpu": 1}, "accelerator_memory": "1GiB"}, "resources.accelerator_memory", "0.5"),
    ],
)
def test_what_is_no_share_is_refused_with_what_to_say(
    resources: dict[str, Any], field: str, problem: str
) -> None:
    with pytest.raises(InvalidArgument) as error:
        parse({**GOOD, "resources": resources})
    assert problem in error.value.fields[field]


def test_budgets_of_a_node_and_counters_are_asked_for_by_name() -> None:
    given = {"scratch": "2GiB", "network": "100MiB", "counters": {"license.solver": 1}}
    read = parse({**GOOD, "resources": given}).spec.resources
    assert dict(read.budgets) == {"scratch": 2 << 30, "network": 100 << 20, "license.solver": 1}
    with pytest.raises(InvalidArgument, match="whole numbers"):
        parse({**GOOD, "resources": {"counters": {"license.solver": 0.5}}})
