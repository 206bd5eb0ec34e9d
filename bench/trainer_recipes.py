"""What the recipes reach on real data, beside scikit-learn's figure for the same: `python -m bench.trainer_recipes [PART ...]`.

Parts: exact classic fashion fashion_long text play lora embedding scenes. Data: scikit-learn's own sets; Fashion-MNIST from Debian's package
dataset-fashion-mnist; package descriptions by section from the apt index of this machine. What is not there is said
and left out. Figures of what starts at random are means over SEEDS seeds, with their spread.
"""

import gzip
import json
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
from google.protobuf.json_format import MessageToDict
from sklearn import cluster, datasets, decomposition, linear_model, metrics, mixture, neural_network, svm
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import StandardScaler

from aios.client import signatures
from aios.train import Run
from aios.train.local import Local
from aios.trainer.v1 import run_pb2
from bench import weights
from bench.report import Report
from services.trainer import catalog
from services.trainer.recipes import (
    dbscan,
    gaussian_mixture,
    kmeans,
    linear_regression,
    logistic_regression,
    pca,
)

SEEDS = 3
FASHION = Path("/usr/share/datasets/fashion-mnist")
WEIGHTS = Path.home() / ".cache" / "aios-bench"
SECTIONS = 20
TEXTS = 20_000
POINTS_MAX = 0.5  # of accuracy between ours and scikit-learn's, in hundredths


def train(
    recipe: str, data: Path | None, seed: int = 0, *, base: Path | None = None, **given: Any
) -> dict[str, float]:
    """The final figures of a recipe's run, which may start from a model's directory."""
    spec = run_pb2.RunSpec(recipe=recipe, seed=seed)
    spec.hyperparameters.update(catalog.hyperparameters(recipe, given))
    with tempfile.TemporaryDirectory() as folder:
        named = {"dir": data} if data else {}
        if base is not None:
            named["base"] = Path(folder, "base")
            named["base"].mkdir()
            (named["base"] / "model").symlink_to(base)
            described = {"signature": MessageToDict(signatures.of_directory(base))}
            (named["base"] / "model.json").write_text(json.dumps(described))
        home = Local(Path(folder, "run"), spec, named)
        import_module(f"services.trainer.recipes.{recipe}").train(Run(home, threading.Event(), {}))
        home.close()
        found: dict[str, float] = json.loads(Path(folder, "run", "model.json").read_text())["metrics"]
        return found


def over_seeds(
    report: Report, name: str, metric: str, each: Callable[[int], dict[str, float]]
) -> list[float]:
    """A metric over the seeds."""
    values = [each(seed)[metric] for seed in range(SEEDS)]
    report.say(f"{name}: {', '.join(f'{value:.4f}' for value in values)}")
    report.figure(f"{name}_spread", max(values) - min(values))
    return values


def exact(report: Report) -> None:
    """What has one answer."""
    x, y = datasets.load_diabetes(return_X_y=True)
    w, _ = linear_regression.solve(x, y, 0.0)
    theirs = linear_model.LinearRegression().fit(x, y).coef_
    report.bar("linear_regression_relative_difference", _difference(w, theirs), 1e-6)
    digits, labels = datasets.load_digits(return_X_y=True)
    components, _ = pca.decompose(digits, 10)
    others = decomposition.PCA(10, svd_solver="full").fit(digits).components_
    report.bar("pca_relative_difference", _difference(np.abs(components), np.abs(others)), 1e-6)
    scaled = StandardScaler().fit_transform(digits)
    layer = torch.nn.Linear(64, 10, dtype=torch.float64)
    logistic_regression.minimise(layer, torch.from_numpy(scaled), torch.from_numpy(labels), 1e-2, 5_000)
    best = linear_model.LogisticRegression(C=1 / (1e-2 * len(digits)), tol=1e-10, max_iter=100_000)
    best.fit(scaled, labels)
    report.figure(
        "logistic_regression_relative_difference", _difference(layer.weight.detach().numpy(), best.coef_)
    )
    _, inertia = kmeans.cluster(digits, 10, 10, seed=0)
    ratio = inertia / cluster.KMeans(10, n_init=10, random_state=0).fit(digits).inertia_
    report.bar("kmeans_inertia_over_sklearn", ratio, 1.005)
    wine = StandardScaler().fit_transform(datasets.load_wine().data)
    found = gaussian_mixture.fit(wine, 3, seed=0)
    ours = gaussian_mixture.log_sum(gaussian_mixture.log_densities(wine, *found)).mean()
    score = mixture.GaussianMixture(3, n_init=3, random_state=0).fit(wine).score(wine)
    report.figure("gaussian_mixture_log_likelihood", float(ours))
    report.figure("gaussian_mixture_log_likelihood_sklearn", float(score))
    moons, _ = datasets.make_moons(2_000, noise=0.06, random_state=0)
    same = metrics.adjusted_rand_score(
        dbscan.cluster(moons, 0.1, 5), cluster.DBSCAN(eps=0.1, min_samples=5).fit(moons).labels_
    )
    report.bar("dbscan_agreement_with_sklearn", float(same), at_least=0.999)


def classic(report: Report) -> None:
    """Classifiers of the digits: 1,797 of 8x8 pixels, a fifth held out."""
    x, y = datasets.load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    cut = round(len(x) * 0.8)
    parts = {"train": order[:cut], "test": order[cut:]}
    scale = StandardScaler().fit(x[parts["train"]])
    a, b = scale.transform(x[parts["train"]]), scale.transform(x[parts["test"]])
    with tempfile.TemporaryDirectory() as folder:
        for name, rows in parts.items():
            np.savez(Path(folder, f"{name}.npz"), x=x[rows], y=y[rows])
        data = Path(folder)
        pairs: Sequence[tuple[str, dict[str, Any], Any]] = (
            (
                "logistic_regression",
                {"weight_decay": 1e-2},
                linear_model.LogisticRegression(C=1 / (1e-2 * cut)),
            ),
            ("svm", {"kernel": "linear", "weight_decay": 10 / cut}, svm.LinearSVC(C=0.1, max_iter=20_000)),
            ("svm", {"kernel": "rbf", "landmarks": 2_000}, svm.SVC(gamma=1 / 64)),
            ("mlp", {"epochs": 40}, neural_network.MLPClassifier((64, 64), max_iter=200, random_state=0)),
        )
        for recipe, settings, other in pairs:
            theirs = float(other.fit(a, y[parts["train"]]).score(b, y[parts["test"]])) * 100
            name = "_".join([recipe, *(str(value) for value in settings.values() if isinstance(value, str))])
            each = _trainer(recipe, data, settings)
            values = over_seeds(report, f"{name}_digits", "accuracy", each)
            report.figure(f"{name}_digits_sklearn", theirs)
            report.figure(f"{name}_digits", float(np.mean(values)) * 100)
            report.bar(f"{name}_points_below_sklearn", theirs - float(np.mean(values)) * 100, POINTS_MAX)
        for kind in ("random_forest", "extra_trees", "gradient_boosting"):
            values = over_seeds(
                report, f"{kind}_digits", "accuracy", _trainer("tree_ensemble", data, {"kind": kind})
            )
            report.figure(f"{kind}_digits", float(np.mean(values)) * 100)
        coded = train("autoencoder", data, target="y", code=8, width=128, epochs=100)
        report.figure("autoencoder_error_of_8_numbers", coded["test_reconstruction_error"])
        report.figure("pca_error_of_8_numbers", coded["pca_reconstruction_error"])


def fashion(report: Report) -> None:
    """The convolutional network on Fashion-MNIST in 3 epochs."""
    _fashion(report, 91.7, epochs=3, shift_pixels=0, learning_rate=0.003, batch_size=64)


def fashion_long(report: Report) -> None:
    """The same in 15."""
    _fashion(report, 93.0, epochs=15, shift_pixels=1, learning_rate=0.004, batch_size=128)


def text(report: Report) -> None:
    """The section of a Debian package by its description."""
    with tempfile.TemporaryDirectory() as folder:
        rows = _descriptions()
        if len(rows) < TEXTS:
            report.say("no package descriptions here: left out (apt-get update fetches them)")
            return
        cut = round(len(rows) * 0.8)
        for name, part in (("train", rows[:cut]), ("test", rows[cut:])):
            columns = {"text": [row[0] for row in part], "label": [row[1] for row in part]}
            pyarrow.parquet.write_table(pa.table(columns), Path(folder, f"{name}.parquet"))
        words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2)
        a = words.fit_transform([row[0] for row in rows[:cut]])
        model = linear_model.SGDClassifier(random_state=0, alpha=1e-5).fit(a, [row[1] for row in rows[:cut]])
        theirs = model.score(words.transform([row[0] for row in rows[cut:]]), [row[1] for row in rows[cut:]])
        report.figure("tfidf_sgd_debian", float(theirs))
        for recipe in ("lstm", "transformer"):
            values = over_seeds(report, f"{recipe}_debian", "accuracy", _trainer(recipe, Path(folder), {}))
            report.bar(f"{recipe}_debian", float(np.mean(values)), at_least=0.85)


def lora(report: Report) -> None:
    """SmolLM2-135M-Instruct on Debian's package descriptions, 25 steps of 8 texts."""
    settings = {"steps": 25, "batch_size": 8, "length": 64, "learning_rate": 0.004, "evaluate_texts": 64}
    _from_base(report, "lora", weights.smollm2(WEIGHTS / "smollm2"), "perplexity", settings, most=22.0)


def embedding(report: Report) -> None:
    """all-MiniLM-L6-v2: the section of a package by the nearest middle, 50 steps of 32 texts."""
    settings = {"steps": 50, "length": 64, "learning_rate": 2e-4, "evaluate_texts": 1_000}
    _from_base(report, "embedding", weights.minilm(WEIGHTS / "minilm"), "accuracy", settings)


def scenes(report: Report) -> None:
    """Three things of Fashion-MNIST on 64x64 pixels each: found by boxes, and pixel by pixel."""
    if not FASHION.is_dir():
        report.say(f"no {FASHION}: left out (apt install dataset-fashion-mnist)")
        return
    with tempfile.TemporaryDirectory() as folder:
        _scenes(Path(folder))
        for recipe, metric in (("object_detector", "average_precision"), ("segmentation", "mean_iou")):
            values = over_seeds(report, f"{recipe}_scenes", metric, _trainer(recipe, Path(folder), {}))
            report.figure(f"{recipe}_scenes_{metric}", float(np.mean(values)))


def play(report: Report) -> None:
    """Taxi by a table, CartPole by networks in 50,000 steps."""
    values = over_seeds(report, "q_learning_taxi", "mean_return", _trainer("q_learning", None, {}))
    report.bar("q_learning_taxi", float(np.mean(values)), at_least=7.9)
    for recipe in ("ppo", "dqn"):
        values = over_seeds(report, f"{recipe}_cartpole", "mean_return", _trainer(recipe, None, {}))
        report.bar(f"{recipe}_cartpole_least_seed", min(values), at_least=500.0)


def _trainer(recipe: str, data: Path | None, settings: dict[str, Any]) -> Callable[[int], dict[str, float]]:
    return lambda seed: train(recipe, data, seed, **settings)


def _from_base(
    report: Report, recipe: str, base: Path, metric: str, settings: dict[str, Any], most: float | None = None
) -> None:
    rows = _descriptions()
    if len(rows) < TEXTS:
        report.say("no package descriptions here: left out (apt-get update fetches them)")
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, part in (("train", rows[2_000:6_000]), ("test", rows[:2_000])):
            columns = {"text": [row[0] for row in part], "label": [row[1] for row in part]}
            pyarrow.parquet.write_table(pa.table(columns), Path(folder, f"{name}.parquet"))
        found = [train(recipe, Path(folder), seed, base=base, **settings) for seed in range(SEEDS)]
    values = [each[metric] for each in found]
    report.say(f"{recipe}: {', '.join(f'{value:.4f}' for value in values)}")
    report.figure(f"{recipe}_{metric}_before", found[0][f"{metric}_before"])
    if most is None:
        report.figure(f"{recipe}_{metric}", float(np.mean(values)))
    else:
        report.bar(f"{recipe}_{metric}", float(np.mean(values)), most)


def _scenes(folder: Path) -> None:
    """6,000 scenes to learn from, 1,000 to be asked about: images, masks and boxes."""
    for split, prefix, count in (("train", "train", 6_000), ("test", "t10k", 1_000)):
        random = np.random.default_rng(count)
        things = _idx(f"{prefix}-images-idx3", 16).reshape(-1, 28, 28)
        kinds = _idx(f"{prefix}-labels-idx1", 8)
        images, masks = np.zeros((count, 64, 64), np.uint8), np.zeros((count, 64, 64), np.uint8)
        boxes = np.full((count, 3, 5), -1.0, np.float32)
        for row in range(count):
            corners = random.permutation([(0, 0), (0, 34), (34, 0), (34, 34)])[:3]
            for number, corner in enumerate(corners):
                index = random.integers(len(things))
                top, left = corner + random.integers(0, 3, 2)
                place = (row, slice(top, top + 28), slice(left, left + 28))
                images[place] = np.maximum(images[place], things[index])
                masks[place][things[index] > 0] = kinds[index] + 1
                down, right = np.nonzero(things[index])
                sides = (left + right.min(), top + down.min(), left + right.max() + 1, top + down.max() + 1)
                boxes[row, number] = (kinds[index], *sides)
        (folder / split).mkdir()
        for name, content in (("images", images), ("masks", masks), ("boxes", boxes)):
            np.save(folder / split / f"{name}.npy", content)


def _idx(name: str, head: int) -> Any:
    return np.frombuffer(gzip.decompress((FASHION / f"{name}-ubyte.gz").read_bytes()), np.uint8, offset=head)


def _fashion(report: Report, at_least: float, **settings: Any) -> None:
    if not FASHION.is_dir():
        report.say(f"no {FASHION}: left out (apt install dataset-fashion-mnist)")
        return
    with tempfile.TemporaryDirectory() as folder:
        for split, prefix in (("train", "train"), ("test", "t10k")):
            Path(folder, split).mkdir()
            for name, kind, head, shape in (
                ("images", "images-idx3", 16, (-1, 28, 28)),
                ("labels", "labels-idx1", 8, (-1,)),
            ):
                content = gzip.decompress((FASHION / f"{prefix}-{kind}-ubyte.gz").read_bytes())
                np.save(
                    Path(folder, split, name), np.frombuffer(content, np.uint8, offset=head).reshape(shape)
                )
        settings |= {"mirror": True, "precision": "bfloat16"}
        each = _trainer("image_classifier", Path(folder), settings)
        name = f"fashion_{settings['epochs']}_epochs"
        values = over_seeds(report, name, "accuracy", each)
        report.bar(name, float(np.mean(values)) * 100, at_least=at_least)


def _descriptions() -> list[tuple[str, str]]:
    """Descriptions and sections, of the sections that most packages have, in an order of chance."""
    try:
        index = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    found: dict[str, str] = {}
    for entry in index.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in entry.split("\n") if ": " in line and line[0] != " ")
        described = entry.partition("\nDescription")[2].partition(": ")[2].partition("\nDescription-md5")[0]
        if fields.get("Section") and described:
            found[" ".join(described.split())] = fields["Section"].rpartition("/")[2]
    common = {section for section, _ in Counter(found.values()).most_common(SECTIONS)}
    rows = sorted((text, section) for text, section in found.items() if section in common)
    order = np.random.default_rng(0).permutation(len(rows))
    return [rows[index] for index in order]


def _difference(ours: Any, theirs: Any) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


PARTS = {
    each.__name__: each
    for each in (exact, classic, fashion, fashion_long, text, play, lora, embedding, scenes)
}


def main(asked: Sequence[str]) -> None:
    report = Report("trainer_recipes")
    for name in asked or PARTS:
        PARTS[name](report)
    report.finish()


if __name__ == "__main__":
    main(sys.argv[1:])
