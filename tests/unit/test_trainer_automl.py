"""The recipes of an AutoML search, without a platform."""

import json
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from click.testing import CliRunner
from sklearn import datasets

from aios.cli import automl
from aios.client.sweepspec import parse
from aios.errors import InvalidArgument
from aios.train import Run
from aios.train.local import Local
from aios.trainer.v1 import run_pb2
from services.trainer import catalog
from services.trainer.job import candidates, reading, text_families
from services.trainer.job.candidates import Samples
from services.trainer.job.tables import Table
from services.trainer.recipes import ensemble
from services.trainer.recipes.ensemble import Found
from services.trainer.sweeps import mapping, sampling

pytestmark = pytest.mark.timeout(240)


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
    stack = next(entry for entry in board if entry["name"] == "stack of 5")
    assert min(stack["cv_score"], stack["test_score"]) > 0.9
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
        [
            {"family": "linear"},
            {"family": "extra_trees", "trees": 20, "leaf": 3},
            {"family": "mlp", "width": 4},
        ],
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


def sections(folder: Path, count: int) -> Path:
    """Texts of three kinds, each with a word that tells it, in letters of any case and alphabet."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    tells = ["Linux, kernel!", "ÜBER perl", "Привет python3"]
    for name, rows in (("train", count), ("test", count // 3)):
        texts = [f"{' '.join(rng.choice(list('abcdefgh'), 6))} {tells[row % 3]}" for row in range(rows)]
        labels = [f"kind {row % 3}" for row in range(rows)]
        pyarrow.parquet.write_table(pa.table({"text": texts, "label": labels}), folder / f"{name}.parquet")
    return folder


def test_texts_are_searched_and_what_is_served_reads_them_as_it_learnt(tmp_path: Path) -> None:
    data = sections(tmp_path / "data", 90)
    network = {"epochs": 3, "batch_size": 8, "width": 8, "length": 16, "learning_rate": 0.02}
    families: list[dict[str, Any]] = [
        {"family": "tfidf_linear", "strength": 0.1},
        {"family": "tfidf_bayes", "smoothing": 1.0},
        {"family": "transformer", **network},
    ]
    last, board = search(tmp_path, data, families)
    names = [entry["name"] for entry in board]
    assert "baseline: TF-IDF and logistic regression" in names
    assert "stack of 3" in names
    assert board[0]["cv_score"] > 0.9
    held = pyarrow.parquet.read_table(data / "test.parquet")
    session = onnxruntime.InferenceSession(str(last / "model" / "model.onnx"))
    texts = np.array(held["text"].to_pylist(), dtype=object)[:, None]
    (shares,) = session.run(["probabilities"], {"text": texts})
    described = json.loads((last / "model.json").read_text())
    named = np.array(described["signature"]["labels"])
    accuracy = float((named[shares.argmax(axis=1)] == np.array(held["label"].to_pylist())).mean())
    assert accuracy == pytest.approx(described["metrics"]["accuracy"])
    assert shares.sum(axis=1) == pytest.approx(1, abs=1e-4)
    (empty,) = session.run(["probabilities"], {"text": np.array([[""]], dtype=object)})
    assert np.isfinite(empty).all()


def test_words_of_any_alphabet_are_read_in_lower_case() -> None:
    found = reading.split(["Linux, kernel!", "Привет  python3_x", ""], reading.LENGTH_MAX)
    assert list(found) == [["linux", ",", "kernel", "!"], ["привет", "python3_x"], []]


@pytest.mark.parametrize("family", text_families.NETWORKS)
def test_what_lies_behind_a_text_changes_nothing(family: str) -> None:
    torch.manual_seed(0)
    settings = {"width": 8, "length": 7, "heads": 2, "layers": 1, "dropout": 0.5}
    network = text_families.NETWORKS[family](50, 3, settings).eval()
    words_BT = torch.tensor([[3, 4, 5, 0, 0, 0, 0], [3, 4, 5, 6, 7, 8, 9]])
    with torch.no_grad():
        torch.testing.assert_close(network(words_BT)[:1], network(words_BT[:1, :3]))


def test_a_family_for_other_data_is_refused(tmp_path: Path) -> None:
    samples = candidates.load(sections(tmp_path / "data", 30), "", "auto", 0)
    assert samples.train.classes == ["kind 0", "kind 1", "kind 2"]
    with pytest.raises(InvalidArgument, match="--text"):
        candidates.check("mlp", samples)
    with pytest.raises(InvalidArgument, match="must be classes"):
        candidates.load(tmp_path / "data", "", "numbers", 0)


def test_texts_without_a_label_are_refused(tmp_path: Path) -> None:
    told = pa.table({"text": ["a b", "c d", "e f"], "label": ["x", None, "y"]})
    for name in ("train", "test"):
        pyarrow.parquet.write_table(told, tmp_path / f"{name}.parquet")
    with pytest.raises(InvalidArgument, match="rows without a value"):
        candidates.load(tmp_path, "", "auto", 0)


def test_a_greedy_ensemble_takes_what_helps_and_leaves_what_does_not() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=200)
    one, two, bad = (y + rng.normal(scale=scale, size=200) for scale in (0.5, 0.5, 5.0))
    weights = candidates.greedy([each[:, None] for each in (one, two, bad)], y, 0)
    assert weights.sum() == pytest.approx(1)
    assert min(weights[:2]) > 0.3
    assert weights[2] < 0.05


def test_an_ensemble_of_candidates_that_know_nothing_is_not_said_to_know_something() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 100)
    part = Table(np.zeros((100, 1)), y, ["x"], ["a", "b"])
    guesses = rng.dirichlet([2.0, 2.0], (30, 100))
    found = [Found(number, {"family": "linear"}, each) for number, each in enumerate(guesses)]
    (made,) = ensemble.combined(Samples(part, part), found, 5, 0)
    seen = made.mixture([guesses[index] for index in made.mixture.members])
    assert candidates.loss(seen, y, 2) < np.log(2) < candidates.loss(made.guessed_NC, y, 2)


def test_whole_numbers_of_few_values_are_classes_and_others_are_numbers(tmp_path: Path) -> None:
    few = table(tmp_path / "few", np.ones((100, 2)), np.arange(100) % 4, 80)
    many = table(tmp_path / "many", np.ones((100, 2)), np.arange(100), 80)
    assert candidates.load(few, "", "auto", 0).classes == 4
    assert candidates.load(many, "", "auto", 0).classes == 0
    assert candidates.load(few, "", "numbers", 0).classes == 0
    with pytest.raises(InvalidArgument, match="no column"):
        candidates.load(few, "z", "auto", 0)


@pytest.mark.parametrize(
    ("space", "first", "families"),
    [
        (automl.SPACE, automl.FIRST, catalog.FAMILIES),
        (automl.TEXT_SPACE, automl.TEXT_FIRST, catalog.TEXT_FAMILIES),
    ],
    ids=["tables", "texts"],
)
def test_the_space_of_the_command_is_one_that_the_recipe_takes(
    space: dict[str, Any], first: list[dict[str, Any]], families: tuple[str, ...]
) -> None:
    run_part = {"recipe": "candidate", "dataset": "d"}
    asked = parse({"run": run_part, "space": space, "first": first, "metric": "cv_score"}).spec
    spec = mapping.spec_from_proto(asked)
    mapping.check_values(asked, spec)
    assert {values["family"] for values in spec.first} == set(families)
    for number in range(len(spec.first)):
        proposal = sampling.propose(spec, [None] * number)  # type: ignore[list-item]
        assert proposal is not None
        catalog.hyperparameters("candidate", proposal.values)
        assert proposal.values == spec.first[number]


def test_a_budget_that_is_no_time_is_refused() -> None:
    result = CliRunner().invoke(automl.automl, ["d", "--budget", "soon"])
    assert "must look like 90s" in str(result.exception)
