"""The recipes of an AutoML search, without a platform."""

import json
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner
from sklearn import datasets

from aios.cli import automl
from aios.client.sweepspec import parse
from aios.errors import InvalidArgument
from aios.train import Run
from aios.train.local import Local
from aios.trainer.v1 import run_pb2
from services.trainer import catalog
from services.trainer.job import candidates
from services.trainer.sweeps import mapping, sampling

pytestmark = pytest.mark.timeout(120)


def run(folder: Path, recipe: str, data: dict[str, Path], **given: Any) -> Path:
    spec = run_pb2.RunSpec(
        recipe=recipe, seed=1, dataset="d", datasets={key: "v" for key in data if key != "dir"}
    )
    spec.hyperparameters.update(catalog.hyperparameters(recipe, given))
    home = Local(folder, spec, data)
    try:
        import_module(f"services.trainer.recipes.{recipe}").train(Run(home, threading.Event(), {}))
    finally:
        home.close()
    return folder


def search(tmp_path: Path, data: Path, families: list[dict[str, Any]]) -> tuple[Path, list[dict[str, Any]]]:
    found = {"dir": data}
    for number, settings in enumerate(families):
        made = run(tmp_path / f"t{number}", "candidate", {"dir": data}, folds=3, **settings)
        found[f"trial_{number}"] = made / "outputs"
    last = run(tmp_path / "last", "ensemble", found)
    return last, json.loads((last / "outputs" / "leaderboard.json").read_text())


def table(folder: Path, x: Any, y: Any, cut: int) -> Path:
    folder.mkdir()
    order = np.random.default_rng(0).permutation(len(y))
    x, y = x[order].astype(np.float32), y[order]
    np.savez(folder / "train.npz", x=x[:cut], y=y[:cut])
    np.savez(folder / "test.npz", x=x[cut:], y=y[cut:])
    return folder


def test_a_search_for_classes_ends_with_a_model_that_beats_the_baseline_and_is_served_as_it_was_measured(
    tmp_path: Path,
) -> None:
    x, y = datasets.load_wine(return_X_y=True)
    data = table(tmp_path / "data", x, y, 130)
    families: list[dict[str, Any]] = [
        {"family": "linear"},
        {"family": "random_forest", "trees": 20},
        {"family": "nearest"},
        {"family": "gradient_boosting", "trees": 20},
        {"family": "mlp", "width": 16},
    ]
    last, board = search(tmp_path, data, families)
    names = [entry["name"] for entry in board]
    assert sum(name.startswith("trial") for name in names) == 5
    base = next(entry for entry in board if entry["name"].startswith("baseline"))
    assert board[0]["cv_score"] > 0.9 > base["cv_score"]
    assert [entry["cv_loss"] for entry in board if entry["chosen"]] == [
        min(entry["cv_loss"] for entry in board)
    ]
    session = onnxruntime.InferenceSession(str(last / "model" / "model.onnx"))
    held = np.load(data / "test.npz")
    outputs = session.run(["probabilities"], {"features": held["x"]})[0]
    accuracy = float((outputs.argmax(axis=1) == held["y"]).mean())
    described = json.loads((last / "model.json").read_text())
    assert accuracy == pytest.approx(described["metrics"]["accuracy"])
    assert accuracy > 0.9
    assert "Leaderboard" in (last / "outputs" / "report.html").read_text()


def test_a_search_for_numbers_measures_against_the_mean(tmp_path: Path) -> None:
    x, y = datasets.load_diabetes(return_X_y=True)
    last, board = search(
        tmp_path,
        table(tmp_path / "data", x, y, 340),
        [{"family": "linear"}, {"family": "extra_trees", "trees": 20, "leaf": 3}],
    )
    base = next(entry for entry in board if entry["name"] == "baseline: mean")
    assert board[0]["cv_score"] > 0.35 > 0.01 > base["cv_score"]
    assert json.loads((last / "model.json").read_text())["metrics"]["r2"] > 0.3


def test_images_are_searched_by_their_pixels(tmp_path: Path) -> None:
    found = datasets.load_digits()
    for split, part in (("train", slice(0, 400)), ("test", slice(400, 600))):
        (tmp_path / "data" / split).mkdir(parents=True)
        np.save(tmp_path / "data" / split / "images.npy", (found.images[part] * 15).astype(np.uint8))
        np.save(tmp_path / "data" / split / "labels.npy", found.target[part])
    _, board = search(tmp_path, tmp_path / "data", [{"family": "linear"}, {"family": "nearest"}])
    assert board[0]["cv_score"] > 0.9


def test_a_greedy_ensemble_takes_what_helps_and_leaves_what_does_not() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=200)
    one, two, bad = (y + rng.normal(scale=scale, size=200) for scale in (0.5, 0.5, 5.0))
    weights = candidates.greedy([each[:, None] for each in (one, two, bad)], y, 0)
    assert weights.sum() == pytest.approx(1)
    assert min(weights[:2]) > 0.3
    assert weights[2] < 0.05


def test_whole_numbers_of_few_values_are_classes_and_others_are_numbers(tmp_path: Path) -> None:
    few = table(tmp_path / "few", np.ones((100, 2)), np.arange(100) % 4, 80)
    many = table(tmp_path / "many", np.ones((100, 2)), np.arange(100), 80)
    assert candidates.load(few, "", "auto", 0).classes == 4
    assert candidates.load(many, "", "auto", 0).classes == 0
    assert candidates.load(few, "", "numbers", 0).classes == 0
    with pytest.raises(InvalidArgument, match="no column"):
        candidates.load(few, "z", "auto", 0)


def test_the_space_of_the_command_is_one_that_the_recipe_takes() -> None:
    run_part = {"recipe": "candidate", "dataset": "d"}
    asked = parse({"run": run_part, "space": automl.SPACE, "first": automl.FIRST, "metric": "cv_score"}).spec
    spec = mapping.spec_from_proto(asked)
    mapping.check_values(asked, spec)
    assert {values["family"] for values in spec.first} == set(catalog.FAMILIES)
    for number in range(len(spec.first)):
        proposal = sampling.propose(spec, [None] * number)  # type: ignore[list-item]
        assert proposal is not None
        catalog.hyperparameters("candidate", proposal.values)
        assert proposal.values == spec.first[number]


def test_a_budget_that_is_no_time_is_refused() -> None:
    result = CliRunner().invoke(automl.automl, ["d", "--budget", "soon"])
    assert "must look like 90s" in str(result.exception)
