"""Candidates of an AutoML search: families of models, what each is made of, and how good it is by cross-validation.

The families of tables and images are scikit-learn's; those of texts are in `text_families`. A score is accuracy for classes
and R² for numbers: of both, more is better.

Shapes: N samples, D features, C classes (1 for numbers).
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from sklearn import (
    ensemble,
    linear_model,
    model_selection,
    neighbors,
    neural_network,
    pipeline,
    preprocessing,
)
from sklearn.exceptions import ConvergenceWarning

from aios.errors import InvalidArgument
from services.trainer import catalog
from services.trainer.job import tables
from services.trainer.job.tables import Array, Table

CLASSES_MAX = 50  # whole numbers with more values than this are numbers, not classes
MLP_ROUNDS = 200
PREDICTIONS, DESCRIPTION = "predictions.npz", "candidate.json"


@dataclass(frozen=True)
class Samples:
    """What is learnt from and what is held out."""

    train: Table
    test: Table
    image: tuple[int, int] | None = None
    """Height and width, where the features are pixels."""

    texts: bool = False
    """Features are the words of texts: an array of lists."""

    @property
    def classes(self) -> int:
        """How many; 0 where numbers are learnt."""
        return len(self.train.classes)


def load(folder: Path, target: str, task: str, seed: int) -> Samples:
    """A table, images as tables of pixels from 0 to 1, or one column of texts, which are cut into words.

    Args:
        task: `classes`, `numbers`, or `auto`: as the values of the target look.

    Raises:
        InvalidArgument: naming what is wrong with the data.
    """
    found = sorted(folder.rglob("train/images.npy"))
    if found:
        return _images(found[0].parent.parent)
    train, test = tables.parts(folder, seed)
    name = target or train.column_names[-1]
    if name not in train.column_names:
        raise InvalidArgument.of(
            "hyperparameters.target", f"there is no column {name!r}: {', '.join(train.column_names)}"
        )
    others = [column for column in train.column_names if column != name]
    if len(others) == 1 and _are_texts(others[0], train[others[0]]):
        if task == "numbers":
            raise InvalidArgument.of("hyperparameters.task", "must be classes, where the features are texts")
        return _texts(train, test, others[0], name)
    classes = _are_classes(train[name]) if task == "auto" else task == "classes"
    return Samples(*tables.load(folder, target, classes=classes, seed=seed))


def check(family: str, samples: Samples) -> None:
    """Refuse a family that is for other data.

    Raises:
        InvalidArgument: naming what the data is.
    """
    if samples.texts is not (family in catalog.TEXT_FAMILIES):
        held = "texts: search them with --text" if samples.texts else "no texts: search it without --text"
        raise InvalidArgument.of("hyperparameters.family", f"cannot be {family}: the dataset holds {held}")


def _are_texts(name: str, column: Any) -> bool:
    words = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    return words and (name == "text" or len(column.unique()) > tables.VALUES_MAX)


def _texts(train: pa.Table, test: pa.Table, column: str, target: str) -> Samples:
    from services.trainer.job import reading

    parts = [
        ([str(each or "") for each in part[column].to_pylist()], tables.present(part[target], target))
        for part in (train, test)
    ]
    names = sorted({str(label) for _, labels in parts for label in labels})
    index = {name: number for number, name in enumerate(names)}
    train_table, test_table = (
        Table(
            reading.split(texts, reading.LENGTH_MAX),
            np.array([index[str(label)] for label in labels], dtype=np.int64),
            [column],
            names,
        )
        for texts, labels in parts
    )
    return Samples(train_table, test_table, texts=True)


def _are_classes(column: Any) -> bool:
    if (
        pa.types.is_string(column.type)
        or pa.types.is_large_string(column.type)
        or pa.types.is_boolean(column.type)
    ):
        return True
    values = np.unique(column.drop_null().to_numpy())
    whole = bool(np.all(values == np.round(values)))
    return whole and len(values) <= min(CLASSES_MAX, max(2, len(column) // 10))


def _images(folder: Path) -> Samples:
    parts = []
    for split in ("train", "test"):
        images = np.load(folder / split / "images.npy", allow_pickle=False)
        labels = np.load(folder / split / "labels.npy", allow_pickle=False).astype(np.int64)
        pixels = images.reshape(len(images), -1) / 255.0
        parts.append((pixels, labels, images.shape[1:3]))
    count = int(max(labels.max() for _, labels, _ in parts)) + 1
    names = [str(each) for each in range(count)]
    size = int(parts[0][2][0]), int(parts[0][2][1])
    features = [f"pixel{each}" for each in range(size[0] * size[1])]
    train, test = (Table(x, y, features, names) for x, y, _ in parts)
    return Samples(train, test, size)


def make(settings: Mapping[str, Any], *, classes: bool, seed: int) -> Any:
    """An estimator of a family, not fitted yet."""
    family, leaf = settings["family"], settings["leaf"]
    if family in catalog.TEXT_FAMILIES:
        from services.trainer.job import text_families  # torch, which no table needs

        return text_families.make(settings, seed)
    if family == "linear":
        model = (
            linear_model.LogisticRegression(C=settings["strength"], max_iter=500)
            if classes
            else linear_model.Ridge(alpha=1 / settings["strength"])
        )
        return _scaled(model)
    if family == "nearest":
        kind = neighbors.KNeighborsClassifier if classes else neighbors.KNeighborsRegressor
        return _scaled(kind(n_neighbors=settings["neighbours"], weights="distance"))
    if family == "mlp":
        network = neural_network.MLPClassifier if classes else neural_network.MLPRegressor
        layers = (settings["width"],) * settings["layers"]
        return _scaled(
            network(
                hidden_layer_sizes=layers, alpha=settings["decay"], max_iter=MLP_ROUNDS, random_state=seed
            )
        )
    if family == "gradient_boosting":
        boosted = (
            ensemble.HistGradientBoostingClassifier if classes else ensemble.HistGradientBoostingRegressor
        )
        return boosted(
            max_iter=settings["trees"],
            learning_rate=settings["learning_rate"],
            min_samples_leaf=leaf,
            random_state=seed,
        )
    kinds = {
        ("random_forest", True): ensemble.RandomForestClassifier,
        ("random_forest", False): ensemble.RandomForestRegressor,
        ("extra_trees", True): ensemble.ExtraTreesClassifier,
        ("extra_trees", False): ensemble.ExtraTreesRegressor,
    }
    return kinds[family, classes](n_estimators=settings["trees"], min_samples_leaf=leaf, random_state=seed)


def _scaled(model: Any) -> Any:
    return pipeline.make_pipeline(preprocessing.StandardScaler(), model)


def fit(model: Any, x_ND: Array, y_N: Array) -> Any:
    """Fitted on what it will be served: float32."""
    # The score says what it costs.
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        return model.fit(_served(x_ND), y_N)


def predict(model: Any, x_ND: Array, classes: int) -> Array:
    """Probabilities [N, C], with a column for every class, or values [N, 1]."""
    x = _served(x_ND)
    if not classes:
        values: Array = np.asarray(model.predict(x), dtype=np.float64)[:, None]
        return values
    p_NC = np.zeros((len(x), classes))
    p_NC[:, model.classes_] = model.predict_proba(x)
    return p_NC


def _served(x_ND: Array) -> Array:
    return x_ND if x_ND.dtype == object else x_ND.astype(np.float32)


def folds(samples: Samples, count: int, seed: int) -> Iterator[tuple[Array, Array]]:
    """Indices to learn from and to be tried on: the same for every candidate of a search."""
    y = samples.train.y_N
    if samples.classes and np.bincount(y)[np.unique(y)].min() >= count:
        split: Any = model_selection.StratifiedKFold(count, shuffle=True, random_state=seed)
    else:
        split = model_selection.KFold(count, shuffle=True, random_state=seed)
    yield from split.split(samples.train.x_ND, y)


def score(p_NC: Array, y_N: Array, classes: int) -> float:
    """Accuracy, or R²."""
    if classes:
        return float((p_NC.argmax(axis=1) == y_N).mean())
    spread = float(((y_N - y_N.mean()) ** 2).sum())
    return 1 - float(((p_NC[:, 0] - y_N) ** 2).sum()) / spread if spread else 0.0


def loss(p_NC: Array, y_N: Array, classes: int) -> float:
    """What an ensemble is chosen by: log loss, or the mean squared error."""
    if classes:
        return float(-np.log(np.clip(p_NC[np.arange(len(y_N)), y_N], 1e-9, 1)).mean())
    return float(((p_NC[:, 0] - y_N) ** 2).mean())


def baseline(samples: Samples, y_N: Array) -> Array:
    """The guess that knows no feature: how frequent each class is, or the mean."""
    y = samples.train.y_N
    row = np.bincount(y, minlength=samples.classes) / len(y) if samples.classes else np.array([y.mean()])
    return np.tile(row, (len(y_N), 1))


def greedy(oof_MNC: Sequence[Array], y_N: Array, classes: int, rounds: int = 50) -> Array:
    """Weights of an ensemble: members are added one by one, with repetition, each the one that lowers the loss most.

    The best prefix counts. Source: Caruana et al., Ensemble selection from libraries of models, ICML 2004.
    """
    counts = np.zeros(len(oof_MNC))
    total = np.zeros_like(oof_MNC[0])
    best, weights = np.inf, counts
    for size in range(1, rounds + 1):
        losses = [loss((total + each) / size, y_N, classes) for each in oof_MNC]
        chosen = int(np.argmin(losses))
        counts = counts.copy()
        counts[chosen] += 1
        total = total + oof_MNC[chosen]
        if losses[chosen] < best - 1e-12:
            best, weights = losses[chosen], counts
    shares: Array = weights / weights.sum()
    return shares
