"""What the recipes reach on real data, beside scikit-learn's figure for the same: `python -m bench.trainer_recipes [PART ...]`.

Parts: exact classic fashion fashion_long lstm transformer taxi ppo dqn lora embedding scenes. Data: scikit-learn's own sets;
Fashion-MNIST from Debian's package dataset-fashion-mnist; package descriptions by section from the apt index of this machine.
What is not there is said and left out. Figures of what starts at random are means over three seeds, with their interval;
each seed's is kept (see `trainer_recipes_kept`), so that a part that was ended goes on.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn import cluster, datasets, decomposition, linear_model, metrics, mixture, neural_network, svm
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import StandardScaler

from bench import fashion as images
from bench import trainer_recipes_data as data
from bench import weights
from bench.report import Report
from bench.trainer_recipes_kept import kept, over_seeds
from services.trainer.recipes import (
    dbscan,
    gaussian_mixture,
    kmeans,
    linear_regression,
    logistic_regression,
    pca,
)

WEIGHTS = Path.home() / ".cache" / "aios-bench"
POINTS_MAX = 0.5  # of accuracy between ours and scikit-learn's, in hundredths


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
            each = kept(recipe, "digits", Path(folder), settings)
            values = over_seeds(report, f"{name}_digits", "accuracy", each, 100)
            report.figure(f"{name}_digits_sklearn", theirs)
            report.figure(f"{name}_digits", float(np.mean(values)))
            report.bar(f"{name}_points_below_sklearn", theirs - float(np.mean(values)), POINTS_MAX)
        for kind in ("random_forest", "extra_trees", "gradient_boosting"):
            each = kept("tree_ensemble", "digits", Path(folder), {"kind": kind})
            report.figure(
                f"{kind}_digits", float(np.mean(over_seeds(report, f"{kind}_digits", "accuracy", each, 100)))
            )
        settings = {"target": "y", "code": 8, "width": 128, "epochs": 100}
        coded = kept("autoencoder", "digits", Path(folder), settings)(0)
        report.figure("autoencoder_error_of_8_numbers", coded["test_reconstruction_error"])
        report.figure("pca_error_of_8_numbers", coded["pca_reconstruction_error"])


def fashion(report: Report) -> None:
    """The convolutional network on Fashion-MNIST in 3 epochs."""
    _fashion(report, 91.7, epochs=3, shift_pixels=0, learning_rate=0.003, batch_size=64)


def fashion_long(report: Report) -> None:
    """The same in 15."""
    _fashion(report, 93.0, epochs=15, shift_pixels=1, learning_rate=0.004, batch_size=128)


def lstm(report: Report) -> None:
    """The section of a Debian package by its description."""
    _sections(report, "lstm")


def transformer(report: Report) -> None:
    """The same."""
    _sections(report, "transformer")


def taxi(report: Report) -> None:
    """Taxi by a table."""
    values = over_seeds(report, "q_learning_taxi", "mean_return", kept("q_learning", "Taxi", None, {}))
    report.bar("q_learning_taxi", float(np.mean(values)), at_least=7.9)


def ppo(report: Report) -> None:
    """CartPole in 50,000 steps, by a policy."""
    _cartpole(report, "ppo")


def dqn(report: Report) -> None:
    """CartPole in 50,000 steps, by values."""
    _cartpole(report, "dqn")


def lora(report: Report) -> None:
    """SmolLM2-135M-Instruct on Debian's package descriptions, 25 steps of 8 blocks of 128 tokens."""
    settings = {
        "steps": 25,
        "batch_size": 8,
        "length": 128,
        "learning_rate": 0.004,
        "evaluate_texts": 64,
        "precision": "bfloat16",
    }
    _from_base(report, "lora", weights.smollm2(WEIGHTS / "smollm2"), "perplexity", settings, most=22.0)


def embedding(report: Report) -> None:
    """all-MiniLM-L6-v2: the section of a package by the nearest middle, 50 steps of 32 texts."""
    settings = {"steps": 50, "length": 64, "learning_rate": 2e-4, "evaluate_texts": 1_000}
    _from_base(report, "embedding", weights.minilm(WEIGHTS / "minilm"), "accuracy", settings)


def scenes(report: Report) -> None:
    """Three things of Fashion-MNIST on 64x64 pixels each: found by boxes, and pixel by pixel."""
    if not images.FOLDER.is_dir():
        report.say(data.NO_FASHION)
        return
    with tempfile.TemporaryDirectory() as folder:
        data.scenes(Path(folder))
        for recipe, metric in (("object_detector", "average_precision"), ("segmentation", "mean_iou")):
            name = f"{recipe}_scenes_{metric}"
            values = over_seeds(report, name, metric, kept(recipe, "scenes", Path(folder), {}))
            report.figure(name, float(np.mean(values)))


def _fashion(report: Report, at_least: float, **settings: Any) -> None:
    if not images.FOLDER.is_dir():
        report.say(data.NO_FASHION)
        return
    settings |= {"mirror": True, "precision": "bfloat16"}
    name = f"fashion_{settings['epochs']}_epochs"
    with tempfile.TemporaryDirectory() as folder:
        images.write(Path(folder))
        each = kept("image_classifier", "Fashion-MNIST", Path(folder), settings)
        values = over_seeds(report, name, "accuracy", each, 100)
    report.bar(name, float(np.mean(values)), at_least=at_least)


def _sections(report: Report, recipe: str) -> None:
    """Beside it TF-IDF of words and pairs with a linear model."""
    rows = data.descriptions()
    if not rows:
        report.say(data.NO_TEXTS)
        return
    cut = round(len(rows) * 0.8)
    learnt, held = rows[:cut], rows[cut:]
    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2)
    model = linear_model.SGDClassifier(random_state=0, alpha=1e-5)
    model.fit(words.fit_transform([text for text, _ in learnt]), [label for _, label in learnt])
    theirs = model.score(words.transform([text for text, _ in held]), [label for _, label in held])
    report.figure("tfidf_sgd_debian", float(theirs))
    with tempfile.TemporaryDirectory() as folder:
        data.texts(Path(folder), train=learnt, test=held)
        what = f"{len(rows)} descriptions"
        values = over_seeds(report, f"{recipe}_debian", "accuracy", kept(recipe, what, Path(folder), {}))
    report.bar(f"{recipe}_debian", float(np.mean(values)), at_least=0.85)


def _cartpole(report: Report, recipe: str) -> None:
    values = over_seeds(report, f"{recipe}_cartpole", "mean_return", kept(recipe, "CartPole", None, {}))
    report.bar(f"{recipe}_cartpole_least_seed", min(values), at_least=500.0)


def _from_base(
    report: Report, recipe: str, base: Path, metric: str, settings: dict[str, Any], most: float | None = None
) -> None:
    rows = data.descriptions()
    if not rows:
        report.say(data.NO_TEXTS)
        return
    with tempfile.TemporaryDirectory() as folder:
        data.texts(Path(folder), train=rows[2_000:6_000], test=rows[:2_000])
        each = kept(recipe, f"6000 of {len(rows)} descriptions", Path(folder), settings, base=base)
        values = over_seeds(report, f"{recipe}_{metric}", metric, each)
        report.figure(f"{recipe}_{metric}_before", each(0)[f"{metric}_before"])
    if most is None:
        report.figure(f"{recipe}_{metric}", float(np.mean(values)))
    else:
        report.bar(f"{recipe}_{metric}", float(np.mean(values)), most)


def _difference(ours: Any, theirs: Any) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


PARTS = {
    each.__name__: each
    for each in (
        exact,
        classic,
        fashion,
        fashion_long,
        lstm,
        transformer,
        taxi,
        ppo,
        dqn,
        lora,
        embedding,
        scenes,
    )
}


def main(asked: Sequence[str]) -> None:
    unknown = set(asked) - set(PARTS)
    if unknown:
        raise SystemExit(f"no part {', '.join(sorted(unknown))}: there are {' '.join(PARTS)}")
    report = Report("trainer_recipes")
    for name in asked or PARTS:
        PARTS[name](report)
    report.finish()


if __name__ == "__main__":
    main(sys.argv[1:])
