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
    """What its dataset must hold."""


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "image_classifier": Recipe(
            summary="A small convolutional network over greyscale images.",
            settings=MappingProxyType(
                {
                    "epochs": Setting(default=8, low=1, high=10_000),
                    "batch_size": Setting(default=64, low=1, high=65_536),
                    "learning_rate": Setting(default=0.002, low=1e-8, high=10.0),
                    "optimizer": Setting(default="adamw", choices=("sgd", "momentum", "adam", "adamw")),
                    "weight_decay": Setting(default=0.01, low=0.0, high=1.0),
                    "shift_pixels": Setting(default=2, low=0, high=8),
                    "threads": Setting(default=1, low=1, high=256),
                }
            ),
            files=("train/images.npy", "train/labels.npy", "test/images.npy", "test/labels.npy"),
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
        raise InvalidArgument.of("spec.recipe", f"no recipe is called {name!r}{_likely(name, RECIPES)}")
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
            raise InvalidArgument.of(prefix + key, f"{name} has no such setting{_likely(key, known)}")
    return {
        key: setting.read(prefix + key, given[key]) if key in given else setting.default
        for key, setting in known.items()
    }


def _likely(word: str, known: Mapping[str, object]) -> str:
    close = get_close_matches(word, known, 1)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(sorted(known))}"
