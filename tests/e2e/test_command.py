"""A script of a person's own, unchanged: submitted from its folder, followed, restarted, its model served."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aios.client import Client
from tests.e2e import digits
from tests.e2e.stack import Stack
from tests.wheels import wheel

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working tree with the script."""
    tree = tmp_path_factory.mktemp("tree")
    shutil.copy(Path(__file__).with_name("script.py"), tree / "train.py")
    (tree / ".aiosignore").write_text("*.bin\n")
    (tree / "big.bin").write_bytes(b"x" * 1000)
    return tree


@pytest.fixture(scope="module")
def own(aios: Stack, tree: Path, dataset: dict[str, Any]) -> dict[str, Any]:
    """A run of the script that fails once on its way."""
    (tree / "run.yaml").write_text(
        "command: python train.py --lr 0.02 --fail-once-at 3\n"
        "dataset: digits\nmodel: own\nmax_restarts: 1\nresources: {cpu: 0.5, memory: 500Mi}\n"
    )
    ended: dict[str, Any] = aios.json("run", "submit", "-f", "run.yaml", "--wait", cwd=tree)
    return ended


def test_a_script_trains_and_its_model_is_registered(
    aios: Stack, own: dict[str, Any], dataset: dict[str, Any]
) -> None:
    assert (own["state"], own["epoch"], own["exitCode"]) == ("STATE_SUCCEEDED", "2", 0)
    assert own["modelVersion"] == "projects/default/models/own/versions/1"
    assert own["metrics"]["test_accuracy"] > 0.8
    edges = {
        (edge["source"], edge["target"])
        for edge in aios.json("lineage", own["modelVersion"], "--direction", "up")
    }
    code = f"projects/default/{own['spec']['code']}"
    assert {(dataset["name"], own["name"]), (code, own["name"])} <= edges
    assert [file["path"] for file in aios.json("dataset", "get", own["spec"]["code"])["files"]] == [
        "code.tar"
    ]


def test_it_went_on_from_its_checkpoint_and_no_point_of_its_curve_is_there_twice(
    client: Client, own: dict[str, Any]
) -> None:
    curve = digits.curve(client, own["name"])
    assert [curve["first", step] for step in range(1, 7)] == [1, 1, 1, 4, 4, 4]
    assert sorted(step for key, step in curve if key == "test_accuracy") == [1, 2, 3, 4, 5, 6]
    assert curve["test_accuracy", 6] == own["metrics"]["test_accuracy"]


def test_the_model_it_left_is_served(aios: Stack, client: Client, own: dict[str, Any], folder: Path) -> None:
    aios.json("deploy", "own/1", "--name", "own", "--wait")
    images, labels = digits.held_out(folder)
    answer = client.predictions.predict("own", {"pixels": images.reshape(len(images), -1)[:50]})
    label = next(value for value in answer.outputs.values() if value.ndim == 1 or value.shape[1] == 1)
    assert float(np.mean(label.reshape(-1) == labels[:50])) > 0.8
    aios.aios("deployment", "delete", "own")


def test_waiting_for_it_ends_with_its_own_exit_code(aios: Stack, tree: Path) -> None:
    line = "test -f train.py && ! test -f big.bin && exit 227"
    done = aios.aios("run", "submit", "--wait", "--", "sh", "-c", line, code=None, cwd=tree)
    assert done.code == 227, done.err


def test_what_it_left_behind_is_fetched(aios: Stack, tree: Path, tmp_path: Path) -> None:
    line = "mkdir $AIOS_OUTPUT_DIR/plots && echo hello > $AIOS_OUTPUT_DIR/plots/a.txt"
    aios.aios("run", "submit", "--name", "leaves", "--wait", "--", "sh", "-c", line, cwd=tree)
    aios.aios("run", "outputs", "leaves", tmp_path)
    assert (tmp_path / "plots" / "a.txt").read_text() == "hello\n"


def test_a_wheel_is_the_code_of_a_run(aios: Stack, tmp_path: Path) -> None:
    wheel(tmp_path / "dist", "from a wheel")
    found = ("run", "submit", "--wait", "--wheel", "dist/tiny-1.0-py3-none-any.whl", "--")
    line = "import importlib.metadata as m, tiny; assert (tiny.SAID, m.version('tiny')) == ('from a wheel', '1.0')"
    made = aios.json(*found, "python", "-c", line, cwd=tmp_path)
    assert (made["state"], made["exitCode"]) == ("STATE_SUCCEEDED", 0)
    assert made["spec"]["code"].startswith("datasets/run-code/versions/")
    (tmp_path / "dist" / "tiny-1.0-py3-none-any.whl").write_bytes(b"PK")
    refused = aios.aios(*found, "true", code=None, cwd=tmp_path)
    assert refused.code != 0
    assert "no sound zip" in refused.err


def test_a_script_has_its_own_packages_and_no_others(aios: Stack, packages: Path, tmp_path: Path) -> None:
    (tmp_path / "requirements.lock").write_text(wheel(packages, "hello"))
    (tmp_path / "train.py").write_text(
        "import importlib.util, tiny\nassert tiny.SAID == 'hello'\nassert importlib.util.find_spec('aios') is None\n"
    )
    submit = ("run", "submit", "--wait", "--requirements", "requirements.lock", "--", "python", "train.py")
    made = aios.json(*submit, cwd=tmp_path)
    assert made["state"] == "STATE_SUCCEEDED"
    (packages / "tiny-1.0-py3-none-any.whl").unlink()
    assert aios.json(*submit, cwd=tmp_path)["state"] == "STATE_SUCCEEDED"  # it is there already

    (tmp_path / "requirements.lock").write_text(f"tiny==2.0 --hash=sha256:{'ab' * 32}\n")
    failed = aios.aios(*submit, code=None, cwd=tmp_path)
    assert failed.code != 0
    name = aios.json("run", "list")[0]["name"].rpartition("/")[2]
    assert f"aios run logs {name}" in failed.err
    assert "tiny==2.0" in aios.aios("run", "logs", name).out
    (tmp_path / "requirements.lock").write_text("--index-url https://example.org\n")
    refused = aios.aios(*submit, code=None, cwd=tmp_path)
    assert "name==version" in refused.err
