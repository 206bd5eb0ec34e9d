"""What can be trained: the recipes by name, with the settings each takes. Pure, so that a service without torch can
check a run before it is accepted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType

from aios.errors import InvalidArgument

Value = int | float | bool | str


@dataclass(frozen=True)
class Setting:
    """One hyperparameter. Bounds include their ends; `choices` is for text."""

    default: Value
    low: float = float("-inf")
    high: float = float("inf")
    choices: tuple[str, ...] = ()

    def read(self, field: str, value: object) -> Value:
        """`value` as this setting's type.

        Raises:
            InvalidArgument: naming `field` and what it takes.
        """
        if self.choices:
            if value not in self.choices:
                raise InvalidArgument.of(field, f"must be one of {', '.join(self.choices)}, not {value!r}")
            return str(value)
        if isinstance(self.default, str):
            if not isinstance(value, str):
                raise InvalidArgument.of(field, f"must be text, not {value!r}")
            return value
        if isinstance(self.default, bool):
            if not isinstance(value, bool):
                raise InvalidArgument.of(field, f"must be true or false, not {value!r}")
            return value
        whole = isinstance(self.default, int)
        if isinstance(value, bool) or not isinstance(value, int | float) or (whole and value != int(value)):
            raise InvalidArgument.of(field, f"must be a {'whole ' if whole else ''}number, not {value!r}")
        if not self.low <= value <= self.high:
            raise InvalidArgument.of(field, f"must be between {self.low:g} and {self.high:g}, not {value:g}")
        return int(value) if whole else float(value)


@dataclass(frozen=True)
class Recipe:
    """A training program of the platform: `services.trainer.recipes.<name>`."""

    summary: str
    settings: Mapping[str, Setting]
    files: tuple[str, ...]
    """What its dataset holds; nothing where it needs none. A table may be Parquet or NPZ too, or one file alone."""
    base: bool = False
    """It starts from a model version."""
    planned: bool = False
    """Its settings are read by `optimization.read`."""


OPTIMIZERS = ("sgd", "momentum", "adam", "adamw")
THREADS = {"threads": Setting(default=1, low=1, high=256)}
TABLE = {**THREADS, "target": Setting(default="")}
"""The column that is learnt; the last one where empty, none where `-`."""
UNLABELLED = {**THREADS, "target": Setting(default="-"), "standardize": Setting(default=True)}
TABLE_FILES = ("train.csv", "test.csv")
IMAGE_FILES = ("train/images.npy", "train/labels.npy", "test/images.npy", "test/labels.npy")
MASK_FILES = ("train/images.npy", "train/masks.npy", "test/images.npy", "test/masks.npy")
BOX_FILES = ("train/images.npy", "train/boxes.npy", "test/images.npy", "test/boxes.npy")
PLAYED = ("CartPole-v1", "Acrobot-v1", "MountainCar-v0")


def _steps(
    epochs: int,
    batch_size: int,
    learning_rate: float,
    optimizer: str = "adamw",
    decay: float = 0.01,
    *more: str,
) -> dict[str, Setting]:
    """What every recipe that walks down a gradient takes."""
    return {
        "epochs": Setting(default=epochs, low=1, high=100_000),
        "batch_size": Setting(default=batch_size, low=1, high=65_536),
        "learning_rate": Setting(default=learning_rate, low=1e-8, high=100.0),
        "optimizer": Setting(default=optimizer, choices=(*more, *OPTIMIZERS)),
        "weight_decay": Setting(default=decay, low=0.0, high=1e6),
    }


def _recipe(summary: str, settings: Mapping[str, Setting], files: tuple[str, ...] = TABLE_FILES) -> Recipe:
    return Recipe(summary, MappingProxyType(dict(settings)), files)


_SEARCHED = {
    "target": Setting(default=""),
    "task": Setting(default="auto", choices=("auto", "classes", "numbers")),
}
FAMILIES = ("linear", "nearest", "random_forest", "extra_trees", "gradient_boosting", "mlp")
TEXT_FAMILIES = ("tfidf_linear", "tfidf_bayes", "lstm", "transformer")
_WIDTH = Setting(default=64, low=1, high=8_192)
_PRECISION = Setting(default="float32", choices=("float32", "bfloat16"))
_DROPOUT = Setting(default=0.1, low=0.0, high=0.95)
_TASK = Setting(default="classes", choices=("classes", "numbers"))
_TEXT = {
    **THREADS,
    **_steps(4, 64, 0.002),
    "vocabulary": Setting(default=20_000, low=10, high=1_000_000),
    "length": Setting(default=96, low=1, high=4_096),
    "width": Setting(default=96, low=4, high=4_096),
    "dropout": Setting(default=0.3, low=0.0, high=0.95),
}
RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "linear_regression": _recipe(
            "A number as a weighted sum of the features; exact, or by gradient descent.",
            {**TABLE, **_steps(100, 64, 0.05, "closed", 0.0, "closed", "gd")},
        ),
        "logistic_regression": _recipe(
            "Classes by a weighted sum of the features; to the minimum, or by gradient descent.",
            {**TABLE, **_steps(100, 64, 0.05, "lbfgs", 1e-4, "lbfgs", "gd")},
        ),
        "svm": _recipe(
            "Support vector machine, linear or with a radial kernel.",
            {
                **TABLE,
                **_steps(100, 64, 0.01, "adam", 1e-3, "gd"),
                "kernel": Setting(default="rbf", choices=("linear", "rbf")),
                "landmarks": Setting(default=1_000, low=1, high=20_000),
                "gamma": Setting(default=0.0, low=0.0, high=1e6),
            },
        ),
        "tree_ensemble": _recipe(
            "Random forest, extra trees or gradient boosting.",
            {
                **TABLE,
                "task": _TASK,
                "kind": Setting(
                    default="random_forest", choices=("random_forest", "extra_trees", "gradient_boosting")
                ),
                "trees": Setting(default=100, low=1, high=10_000),
                "depth": Setting(default=0, low=0, high=1_000),
                "learning_rate": Setting(default=0.1, low=1e-6, high=10.0),
            },
        ),
        "mlp": _recipe(
            "A multilayer perceptron over a table.",
            {
                **TABLE,
                **_steps(30, 64, 0.003),
                "task": _TASK,
                "layers": Setting(default=2, low=1, high=64),
                "width": _WIDTH,
                "dropout": _DROPOUT,
            },
        ),
        "image_classifier": _recipe(
            "A small convolutional network over greyscale images.",
            {
                **THREADS,
                **_steps(8, 64, 0.002),
                "shift_pixels": Setting(default=2, low=0, high=8),
                "mirror": Setting(default=False),
                "precision": _PRECISION,
                "dp_epsilon": Setting(default=0.0, low=0.0, high=1_000.0),
                "dp_delta": Setting(default=1e-5, low=1e-12, high=0.1),
                "dp_clip": Setting(default=1.0, low=1e-6, high=1e6),
            },
            IMAGE_FILES,
        ),
        "candidate": _recipe(
            "One candidate of an AutoML search, tried by cross-validation.",
            {
                **_SEARCHED,
                "family": Setting(default="random_forest", choices=(*FAMILIES, *TEXT_FAMILIES)),
                "folds": Setting(default=5, low=2, high=20),
                "strength": Setting(default=1.0, low=1e-9, high=1e9),
                "neighbours": Setting(default=5, low=1, high=10_000),
                "trees": Setting(default=100, low=1, high=10_000),
                "leaf": Setting(default=1, low=1, high=10_000),
                "learning_rate": Setting(default=0.1, low=1e-6, high=10.0),
                "layers": Setting(default=1, low=1, high=16),
                "width": Setting(default=64, low=1, high=8_192),
                "decay": Setting(default=1e-4, low=0.0, high=1e6),
                "smoothing": Setting(default=0.1, low=1e-9, high=1e9),
                "epochs": Setting(default=4, low=1, high=1_000),
                "batch_size": Setting(default=64, low=1, high=65_536),
                "vocabulary": Setting(default=20_000, low=10, high=1_000_000),
                "length": Setting(default=96, low=1, high=256),
                "dropout": Setting(default=0.3, low=0.0, high=0.95),
            },
        ),
        "ensemble": _recipe(
            "The end of an AutoML search: its best candidates, alone and together.", _SEARCHED
        ),
        "lstm": _recipe("A text classifier that reads word by word.", _TEXT),
        "transformer": _recipe(
            "A text classifier in which every word looks at every other.",
            {
                **_TEXT,
                "heads": Setting(default=4, low=1, high=64),
                "layers": Setting(default=2, low=1, high=64),
            },
        ),
        "lora": Recipe(
            "A causal language model fine-tuned by low-rank changes of its weights.",
            MappingProxyType(
                {
                    **THREADS,
                    **_steps(1, 16, 0.002, decay=0.0),
                    "steps": Setting(default=0, low=0, high=1_000_000),
                    "rank": Setting(default=8, low=1, high=1_024),
                    "alpha": Setting(default=16.0, low=1e-3, high=1e6),
                    "precision": _PRECISION,
                    "length": Setting(default=96, low=4, high=8_192),
                    "evaluate_texts": Setting(default=128, low=1, high=100_000),
                }
            ),
            TABLE_FILES,
            base=True,
        ),
        "embedding": Recipe(
            "An embedding model fine-tuned so that texts of one label lie close.",
            MappingProxyType(
                {
                    **THREADS,
                    **_steps(1, 32, 5e-5),
                    "steps": Setting(default=0, low=0, high=1_000_000),
                    "length": Setting(default=96, low=4, high=8_192),
                    "temperature": Setting(default=0.1, low=1e-3, high=10.0),
                    "evaluate_texts": Setting(default=1_000, low=1, high=100_000),
                }
            ),
            TABLE_FILES,
            base=True,
        ),
        "segmentation": _recipe(
            "A class for every pixel of a greyscale image, by a small U-shaped network.",
            {**THREADS, **_steps(8, 32, 0.003), "width": Setting(default=16, low=4, high=512)},
            MASK_FILES,
        ),
        "object_detector": _recipe(
            "Boxes and classes of the things in a greyscale image, by one look at it.",
            {
                **THREADS,
                **_steps(12, 32, 0.002),
                "width": Setting(default=24, low=4, high=512),
                "confidence": Setting(default=0.4, low=0.0, high=1.0),
                "overlap": Setting(default=0.5, low=0.0, high=1.0),
            },
            BOX_FILES,
        ),
        "tsne": _recipe(
            "A picture of a table: near samples near each other in two dimensions.",
            {
                **UNLABELLED,
                "target": Setting(default=""),
                "perplexity": Setting(default=30.0, low=1.0, high=1_000.0),
                "samples": Setting(default=3_000, low=10, high=50_000),
            },
        ),
        "kmeans": _recipe(
            "Clusters by their centres.",
            {
                **UNLABELLED,
                "clusters": Setting(default=8, low=1, high=10_000),
                "starts": Setting(default=10, low=1, high=1_000),
            },
        ),
        "gaussian_mixture": _recipe(
            "Clusters as normal distributions.",
            {
                "target": Setting(default="-"),
                **THREADS,
                "components": Setting(default=8, low=1, high=1_000),
            },
        ),
        "dbscan": _recipe(
            "Clusters as regions where samples lie close, and noise.",
            {
                **UNLABELLED,
                "distance": Setting(default=0.5, low=1e-12, high=1e12),
                "neighbours": Setting(default=5, low=1, high=100_000),
            },
        ),
        "pca": _recipe(
            "Principal components.", {**UNLABELLED, "components": Setting(default=2, low=1, high=10_000)}
        ),
        "autoencoder": _recipe(
            "A code of few numbers from which the features come back.",
            {
                **UNLABELLED,
                **_steps(50, 64, 0.003),
                "width": _WIDTH,
                "code": Setting(default=2, low=1, high=8_192),
            },
        ),
        "q_learning": _recipe(
            "A table of what each action in each state is worth.",
            {
                **THREADS,
                "environment": Setting(
                    default="Taxi-v4", choices=("Taxi-v4", "FrozenLake-v1", "CliffWalking-v1")
                ),
                "episodes": Setting(default=5_000, low=1, high=10_000_000),
                "learning_rate": Setting(default=0.5, low=1e-6, high=1.0),
                "discount": Setting(default=0.99, low=0.0, high=1.0),
                "epsilon": Setting(default=0.3, low=0.0, high=1.0),
            },
            (),
        ),
        "dqn": _recipe(
            "A deep Q-network.",
            {
                **THREADS,
                "environment": Setting(default="CartPole-v1", choices=PLAYED),
                "steps": Setting(default=50_000, low=1, high=1_000_000_000),
                "width": Setting(default=128, low=1, high=8_192),
                "learning_rate": Setting(default=0.0023, low=1e-8, high=1.0),
                "batch_size": Setting(default=64, low=1, high=65_536),
                "memory": Setting(default=50_000, low=1, high=10_000_000),
                "learn_from": Setting(default=1_000, low=1, high=10_000_000),
                "every": Setting(default=4, low=1, high=1_000_000),
                "updates": Setting(default=2, low=1, high=10_000),
                "follow": Setting(default=0.02, low=1e-6, high=1.0),
                "exploration": Setting(default=0.16, low=1e-6, high=1.0),
                "epsilon": Setting(default=0.04, low=0.0, high=1.0),
                "discount": Setting(default=0.99, low=0.0, high=1.0),
            },
            (),
        ),
        "ppo": _recipe(
            "Proximal policy optimisation.",
            {
                **THREADS,
                "environment": Setting(default="CartPole-v1", choices=PLAYED),
                "steps": Setting(default=50_000, low=1, high=1_000_000_000),
                "environments": Setting(default=8, low=1, high=1_024),
                "horizon": Setting(default=32, low=1, high=100_000),
                "width": _WIDTH,
                "epochs": Setting(default=20, low=1, high=1_000),
                "entropy": Setting(default=0.0, low=0.0, high=10.0),
                "batch_size": Setting(default=256, low=1, high=65_536),
                "learning_rate": Setting(default=0.001, low=1e-8, high=1.0),
                "discount": Setting(default=0.98, low=0.0, high=1.0),
                "trace": Setting(default=0.8, low=0.0, high=1.0),
                "clip": Setting(default=0.2, low=1e-6, high=10.0),
            },
            (),
        ),
        "optimize": Recipe(
            "A model version made smaller or faster, with a verdict.",
            MappingProxyType({}),
            IMAGE_FILES,
            base=True,
            planned=True,
        ),
        "assess": Recipe(
            "What may go wrong with a model version: attacks, what it gives away, poisoned data.",
            MappingProxyType(
                {
                    **THREADS,
                    "samples": Setting(default=500, low=8, high=1_000_000),
                    "epsilon": Setting(default=8 / 255, low=0.0, high=1.0),
                    "strong": Setting(default=True),
                }
            ),
            IMAGE_FILES,
            base=True,
        ),
    }
)


def recipe(name: str) -> Recipe:
    """A recipe by name.

    Raises:
        InvalidArgument: there is none; the message lists or suggests.
    """
    found = RECIPES.get(name)
    if found is None:
        raise InvalidArgument.of("spec.recipe", f"no recipe is called {name!r}{likely(name, RECIPES)}")
    return found


def hyperparameters(name: str, given: Mapping[str, object]) -> dict[str, Value]:
    """Every setting of a recipe: as given, else its default.

    Raises:
        InvalidArgument: an unknown setting, with the likely one, or a value out of range.
    """
    known = recipe(name).settings
    prefix = "spec.hyperparameters."
    for key in given:
        if key not in known:
            raise InvalidArgument.of(prefix + key, f"{name} has no such setting{likely(key, known)}")
    return {
        key: setting.read(prefix + key, given[key]) if key in given else setting.default
        for key, setting in known.items()
    }


def likely(word: str, known: Mapping[str, object]) -> str:
    """`; did you mean X?`, or all that there are."""
    close = get_close_matches(word, known, 1)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(sorted(known))}"
