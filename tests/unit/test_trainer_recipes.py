"""Each recipe on little data: it learns what scikit-learn learns, and its export answers as it does."""

import csv
import json
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from sklearn import cluster, datasets, decomposition, linear_model, metrics, mixture, preprocessing

from aios.errors import InvalidArgument
from aios.train import Run
from aios.train.local import Local
from aios.trainer.v1 import run_pb2
from services.trainer import catalog
from services.trainer.job import evaluate, optimizers, tables
from services.trainer.recipes import (
    dbscan,
    gaussian_mixture,
    kmeans,
    linear_regression,
    logistic_regression,
    pca,
)

pytestmark = pytest.mark.timeout(300)
Array = NDArray[Any]


def train(
    folder: Path, recipe: str, dataset: Path | None, stop: threading.Event | None = None, **given: Any
) -> Path:
    """Run a recipe without a platform; where its run lives."""
    spec = run_pb2.RunSpec(recipe=recipe, seed=1)
    spec.hyperparameters.update(catalog.hyperparameters(recipe, given))
    home = Local(folder, spec, {"dir": dataset} if dataset else {})
    try:
        import_module(f"services.trainer.recipes.{recipe}").train(Run(home, stop or threading.Event(), {}))
    finally:
        home.close()
    return folder


def figures(folder: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((folder / "model.json").read_text())["metrics"]
    return found


def served(folder: Path, inputs: Array) -> list[Array]:
    """What the exported model answers."""
    session = onnxruntime.InferenceSession(str(folder / "model" / "model.onnx"))
    answers: list[Array] = session.run(None, {session.get_inputs()[0].name: inputs})
    return answers


def table(folder: Path, x: Array, y: Array, held_out: int = 100) -> Path:
    """A dataset of two NPZ files."""
    folder.mkdir(exist_ok=True)
    np.savez(folder / "train.npz", x=x[:-held_out], y=y[:-held_out])
    np.savez(folder / "test.npz", x=x[-held_out:], y=y[-held_out:])
    return folder


@pytest.fixture(scope="module")
def wine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    x, y = datasets.load_wine(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    return table(tmp_path_factory.mktemp("wine"), x[order], y[order], 60)


@pytest.fixture(scope="module")
def diabetes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return table(tmp_path_factory.mktemp("diabetes"), *datasets.load_diabetes(return_X_y=True))


@pytest.mark.parametrize(
    ("recipe", "settings", "accuracy"),
    [
        ("logistic_regression", {}, 0.95),
        ("logistic_regression", {"optimizer": "gd", "epochs": 150, "learning_rate": 1.0}, 0.95),
        ("svm", {"kernel": "rbf", "epochs": 30, "landmarks": 100}, 0.95),
        ("tree_ensemble", {"trees": 20}, 0.93),
        ("tree_ensemble", {"trees": 20, "kind": "gradient_boosting"}, 0.9),
        ("mlp", {"epochs": 20, "batch_size": 16}, 0.93),
    ],
)
def test_a_classifier_learns_reports_and_answers_as_exported(
    tmp_path: Path, wine: Path, recipe: str, settings: dict[str, Any], accuracy: float
) -> None:
    folder = train(tmp_path / "run", recipe, wine, **settings)
    found = figures(folder)
    assert found["accuracy"] >= accuracy
    _, test = tables.load(wine, "", classes=True, seed=1)
    scores = served(folder, test.x_ND.astype(np.float32))[-1]
    assert float((scores.argmax(axis=1) == test.y_N).mean()) == pytest.approx(found["accuracy"])
    report = (folder / "outputs" / "report.html").read_text()
    for part in ("Confusion", "Calibration", "ROC", "Precision-recall", "95% interval", "<svg"):
        assert part in report
    card = json.loads((folder / "model.json").read_text())["card"]
    for part in (
        f"`{recipe}`",
        "## Training",
        "| accuracy |",
        "### By class",
        "Trained without differential privacy",
    ):
        assert part in card


@pytest.mark.parametrize(
    ("recipe", "settings"),
    [
        ("linear_regression", {}),
        ("linear_regression", {"optimizer": "sgd", "epochs": 60, "learning_rate": 0.02}),
        ("tree_ensemble", {"task": "numbers", "trees": 30}),
        ("mlp", {"task": "numbers", "epochs": 20, "width": 32}),
    ],
)
def test_a_model_of_numbers_explains_them_and_answers_as_exported(
    tmp_path: Path, diabetes: Path, recipe: str, settings: dict[str, Any]
) -> None:
    folder = train(tmp_path / "run", recipe, diabetes, **settings)
    found = figures(folder)
    assert found["r2"] > 0.35
    _, test = tables.load(diabetes, "", classes=False, seed=1)
    guesses = served(folder, test.x_ND.astype(np.float32))[0][:, 0]
    assert float(np.sqrt(((guesses - test.y_N) ** 2).mean())) == pytest.approx(found["rmse"], rel=1e-3)
    assert "truth" in (folder / "outputs" / "report.html").read_text()


def test_what_has_a_closed_form_equals_scikit_learn() -> None:
    x, y = datasets.load_diabetes(return_X_y=True)
    for decay, theirs in (
        (0.0, linear_model.LinearRegression()),
        (0.1, linear_model.Ridge(alpha=0.1 * len(x))),
    ):
        w, b = linear_regression.solve(x, y, decay)
        np.testing.assert_allclose(w, theirs.fit(x, y).coef_, rtol=1e-6)
        assert b == pytest.approx(theirs.intercept_, rel=1e-6)
    ours, variances = pca.decompose(x, 4)
    other = decomposition.PCA(4, svd_solver="full").fit(x)
    np.testing.assert_allclose(np.abs(ours), np.abs(other.components_), atol=1e-6)
    np.testing.assert_allclose(variances, other.explained_variance_, rtol=1e-6)


def test_the_minimum_of_a_logistic_regression_is_scikit_learns() -> None:
    x, y = datasets.load_iris(return_X_y=True)
    x = preprocessing.scale(x)
    layer = torch.nn.Linear(4, 3, dtype=torch.float64)
    logistic_regression.minimise(layer, torch.from_numpy(x), torch.from_numpy(y), decay=0.01)
    theirs = linear_model.LogisticRegression(C=1 / (0.01 * len(x)), tol=1e-10, max_iter=10_000).fit(x, y)
    np.testing.assert_allclose(layer.weight.detach().numpy(), theirs.coef_, atol=1e-4)


def test_clusters_are_scikit_learns() -> None:
    x, _ = datasets.make_blobs(400, centers=5, cluster_std=0.7, random_state=3)
    _, inertia = kmeans.cluster(x, 5, 5, seed=0)
    assert inertia == pytest.approx(cluster.KMeans(5, n_init=5, random_state=0).fit(x).inertia_, rel=1e-6)
    moons, _ = datasets.make_moons(300, noise=0.05, random_state=0)
    theirs = cluster.DBSCAN(eps=0.2, min_samples=5).fit(moons).labels_
    assert metrics.adjusted_rand_score(dbscan.cluster(moons, 0.2, 5), theirs) > 0.99
    found = gaussian_mixture.fit(x, 5, seed=0)
    ours = gaussian_mixture.log_sum(gaussian_mixture.log_densities(x, *found)).mean()
    assert ours == pytest.approx(mixture.GaussianMixture(5, random_state=0).fit(x).score(x), abs=0.01)


@pytest.mark.parametrize(
    ("recipe", "settings", "metric", "width"),
    [
        ("kmeans", {"clusters": 3}, "inertia", 3),
        ("gaussian_mixture", {"components": 3}, "log_likelihood", 3),
        ("pca", {"components": 4}, "explained_variance", 4),
        ("autoencoder", {"epochs": 5, "code": 3}, "pca_reconstruction_error", 3),
    ],
)
def test_what_is_learnt_without_labels_is_exported_too(
    tmp_path: Path, wine: Path, recipe: str, settings: dict[str, Any], metric: str, width: int
) -> None:
    folder = train(tmp_path / "run", recipe, wine, target="y", **settings)
    assert np.isfinite(figures(folder)[metric])
    _, test = tables.load(wine, "y", classes=True, seed=1)
    (answer,) = served(folder, test.x_ND.astype(np.float32))
    assert answer.shape == (60, width)
    assert "<circle" in (folder / "outputs" / "report.html").read_text()


def test_density_finds_clusters_and_keeps_them(tmp_path: Path, wine: Path) -> None:
    folder = train(tmp_path / "run", "dbscan", wine, target="y", distance=2.5)
    assert len((folder / "outputs" / "clusters.csv").read_text().splitlines()) == 119


@pytest.mark.parametrize("recipe", ["lstm", "transformer"])
def test_a_text_is_classified_by_its_words(tmp_path: Path, recipe: str) -> None:
    rng = np.random.default_rng(0)
    nouns = {"animal": "cat dog fish bird horse".split(), "tool": "saw drill hammer file plane".split()}
    (tmp_path / "texts").mkdir()
    with (tmp_path / "texts" / "all.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for index in range(200):
            label = ["animal", "tool"][index % 2]
            rows.writerow(
                [f"this is a {rng.choice(nouns[label])}, {'so ' * int(rng.integers(9))}they say", label]
            )
    settings: dict[str, Any] = {
        "epochs": 6,
        "width": 16,
        "length": 16,
        "learning_rate": 0.02,
        "batch_size": 16,
    }
    folder = train(tmp_path / "run", recipe, tmp_path / "texts", **settings)
    assert figures(folder)["accuracy"] > 0.95
    words = json.loads((folder / "model" / "vocabulary.json").read_text())["words"]
    coded = np.zeros((1, 16), dtype=np.int64)
    coded[0, :4] = [words.index(word) + 2 for word in "this is a saw".split()]
    assert served(folder, coded)[0].argmax() == 1


def test_a_taxi_learns_where_to_go(tmp_path: Path) -> None:
    folder = train(tmp_path / "run", "q_learning", None, environment="CliffWalking-v1", episodes=300)
    assert figures(folder)["mean_return"] >= -17
    assert served(folder, np.array([[36]]))[0].shape == (1, 4)


@pytest.mark.parametrize(
    ("recipe", "settings"),
    [
        ("dqn", {"steps": 400, "learn_from": 100, "width": 16}),
        ("ppo", {"steps": 256, "width": 16, "environments": 4, "epochs": 2}),
    ],
)
def test_a_pole_is_balanced_a_little(tmp_path: Path, recipe: str, settings: dict[str, Any]) -> None:
    folder = train(tmp_path / "run", recipe, None, **settings)
    assert figures(folder)["mean_return"] >= 9
    assert served(folder, np.zeros((3, 4), dtype=np.float32))[0].shape == (3, 2)


def test_a_stopped_run_goes_on_to_the_same_end(tmp_path: Path, wine: Path) -> None:
    whole = train(tmp_path / "whole", "mlp", wine, epochs=6)
    stop = threading.Event()
    stop.set()
    with pytest.raises(SystemExit):
        train(tmp_path / "cut", "mlp", wine, stop, epochs=6)
    assert figures(train(tmp_path / "cut", "mlp", wine, epochs=6)) == figures(whole)


@pytest.mark.parametrize("name", ["gd", "sgd", "momentum", "adam", "adamw"])
def test_each_update_rule_is_torchs(name: str) -> None:
    theirs_of: dict[str, Any] = {
        "gd": torch.optim.SGD,
        "sgd": torch.optim.SGD,
        "momentum": lambda parameters, **more: torch.optim.SGD(parameters, momentum=0.9, **more),
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
    }
    torch.manual_seed(0)
    start = torch.randn(20)
    found = []
    for make in (
        lambda parameters: optimizers.make(name, parameters, 0.05, 0.1),
        lambda parameters: theirs_of[name](parameters, lr=0.05, weight_decay=0.1),
    ):
        parameter = torch.nn.Parameter(start.clone())
        optimizer = make([parameter])
        for _ in range(20):
            optimizer.zero_grad()
            (parameter.square() * torch.arange(20)).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        found.append(parameter.detach())
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


def test_figures_and_their_intervals_are_those_of_the_books() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=300)
    scores = rng.dirichlet(np.ones(3), size=300) + 0.4 * np.eye(3)[labels]
    p = scores / scores.sum(axis=1, keepdims=True)
    found = evaluate.classification("x", p, labels, ["a", "b", "c"])
    guesses = p.argmax(axis=1)
    assert found.metrics["macro_f1"] == pytest.approx(metrics.f1_score(labels, guesses, average="macro"))
    assert found.metrics["roc_auc"] == pytest.approx(metrics.roc_auc_score(labels, p, multi_class="ovr"))
    assert found.metrics["log_loss"] == pytest.approx(metrics.log_loss(labels, p))
    for figure in found.figures.values():
        assert figure.low <= figure.value <= figure.high
    values = rng.normal(size=200)
    numbers = evaluate.regression("x", values + rng.normal(size=200) / 3, values)
    assert 0.8 < numbers.figures["r2"].low < numbers.metrics["r2"] < numbers.figures["r2"].high < 0.95


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz"])
def test_a_table_is_read_from_each_format(tmp_path: Path, suffix: str) -> None:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    x = np.arange(40.0).reshape(20, 2)
    made = pa.table({"x0": x[:, 0], "x1": x[:, 1], "y": np.arange(20) % 2})
    path = tmp_path / f"all{suffix}"
    if suffix == ".csv":
        pyarrow.csv.write_csv(made, path)
    elif suffix == ".parquet":
        pyarrow.parquet.write_table(made, path)
    else:
        np.savez(path, x=x, y=np.arange(20) % 2)
    train_part, test_part = tables.load(tmp_path, "y", classes=True, seed=0)
    assert (train_part.x_ND.shape, test_part.x_ND.shape) == ((16, 2), (4, 2))
    assert (list(train_part.features), list(train_part.classes)) == (["x0", "x1"], ["0", "1"])
    rows = np.concatenate([train_part.x_ND, test_part.x_ND])
    np.testing.assert_array_equal(rows[rows[:, 0].argsort()], x)


def test_text_and_missing_values_become_numbers_by_what_training_has(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("colour,size,kind\nred,1,a\nblue,,b\nred,3,a\n")
    (tmp_path / "test.csv").write_text("colour,size,kind\ngreen,,b\nblue,5,a\n")
    one, two = tables.load(tmp_path, "kind", classes=True, seed=0)
    assert list(one.features) == ["colour=blue", "colour=red", "size"]
    np.testing.assert_array_equal(one.x_ND, [[0, 1, 1], [1, 0, 2], [0, 1, 3]])
    np.testing.assert_array_equal(two.x_ND, [[0, 0, 2], [1, 0, 5]])
    assert two.y_N.tolist() == [1, 0]
    with pytest.raises(InvalidArgument, match="no column 'kin'"):
        tables.load(tmp_path, "kin", classes=True, seed=0)
    with pytest.raises(InvalidArgument, match="learns numbers"):
        tables.load(tmp_path, "kind", classes=False, seed=0)


@pytest.mark.parametrize("name", sorted(catalog.RECIPES))
def test_every_recipe_has_a_program_with_its_formula_and_source(name: str) -> None:
    module = import_module(f"services.trainer.recipes.{name}")
    assert callable(module.train)
    assert "Model:" in (module.__doc__ or "") or "model:" in (module.__doc__ or "") or name == "dbscan"
