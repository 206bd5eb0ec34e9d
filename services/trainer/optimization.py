"""What an optimisation may ask for: techniques in their order, limits, a search. Pure, so that a service without torch
can check a plan before it is accepted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any

from aios.errors import InvalidArgument
from services.trainer.catalog import Setting, Value

STEPS_MAX = 8
_AT = "spec.hyperparameters"


class Form(Enum):
    """What a technique changes."""

    NETWORK = "network"  # weights that can be trained on; only recipes of the platform leave them
    FILE = "file"  # the exported model, whoever made it
    EXPORT = "export"  # how such weights become the exported model
    LANGUAGE = "language"  # a causal language model's weights: `services.trainer.optimize.lm`


@dataclass(frozen=True)
class Technique:
    """One step: `services.trainer.optimize.<name>`."""

    summary: str
    form: Form
    settings: Mapping[str, Setting]
    trains: bool = False
    """Its result was trained further, so that a fair comparison is with an original that was trained as long."""


_EPOCHS = Setting(default=1, low=1, high=1_000)
_RATE = Setting(default=0.001, low=1e-8, high=10.0)
_SAMPLES = Setting(default=512, low=8, high=100_000)
_TRAINED_ON = Setting(default=0, low=0, high=10**9)
_STUDENT = {
    "smaller": Setting(default=16.0, low=1.1, high=1_000.0),
    "epochs": Setting(default=3, low=1, high=1_000),
    "learning_rate": Setting(default=0.004, low=1e-8, high=10.0),
    "temperature": Setting(default=4.0, low=0.1, high=100.0),
    "weight": Setting(default=0.7, low=0.0, high=1.0),
    "samples": _TRAINED_ON,
}
_POINTS = Setting(default=0.2, low=0.0, high=100.0)
TECHNIQUES: Mapping[str, Technique] = MappingProxyType(
    {
        "svd": Technique(
            "Layers as the product of two thin ones.",
            Form.NETWORK,
            {
                "rank": Setting(default="energy", choices=("energy", "budget", "sensitivity")),
                "energy": Setting(default=0.99, low=0.01, high=1.0),
                "keep": Setting(default=0.5, low=0.01, high=1.0),
                "aware": Setting(default=True),
                "samples": Setting(default=4096, low=8, high=100_000),
            },
        ),
        "prune": Technique(
            "Whole channels and neurons taken out.",
            Form.NETWORK,
            {"share": Setting(default=0.5, low=0.01, high=0.95)},
        ),
        "sparsify": Technique(
            "The smallest weights set to zero.",
            Form.NETWORK,
            {"share": Setting(default=0.5, low=0.01, high=0.99)},
        ),
        "fine_tune": Technique(
            "Trained on; the better of before and after is kept.",
            Form.NETWORK,
            {"epochs": _EPOCHS, "learning_rate": _RATE, "samples": _TRAINED_ON},
            trains=True,
        ),
        "harden": Technique(
            "Trained on inputs that were moved against it.",
            Form.NETWORK,
            {
                "epochs": _EPOCHS,
                "learning_rate": _RATE,
                "samples": _TRAINED_ON,
                "epsilon": Setting(default=8 / 255, low=0.0, high=1.0),
                "attack_steps": Setting(default=4, low=1, high=100),
            },
            trains=True,
        ),
        "distill": Technique(
            "A smaller network of the same kind, taught by the original.",
            Form.NETWORK,
            _STUDENT,
            trains=True,
        ),
        "ensemble": Technique(
            "Several networks that answer together, as one.",
            Form.NETWORK,
            {
                "members": Setting(default=3, low=2, high=32),
                "kind": Setting(default="snapshots", choices=("snapshots", "seeds")),
                "combine": Setting(default="mean", choices=("mean", "stack")),
                "epochs": _EPOCHS,
                "learning_rate": Setting(default=0.003, low=1e-8, high=10.0),
                "samples": _TRAINED_ON,
            },
            trains=True,
        ),
        "int8_static": Technique(
            "Weights and activations as 8-bit integers, with scales from calibration samples.",
            Form.FILE,
            {
                "samples": _SAMPLES,
                "method": Setting(default="minmax", choices=("minmax", "entropy", "percentile")),
                "per_channel": Setting(default=True),
            },
        ),
        "int8_dynamic": Technique(
            "Weights as 8-bit integers; scales of activations at each call.",
            Form.FILE,
            {"per_channel": Setting(default=True)},
        ),
        "cascade": Technique(
            "A student answers where it is sure, and the original elsewhere.",
            Form.EXPORT,
            {**_STUDENT, "points": _POINTS},
            trains=True,
        ),
        "early_exit": Technique(
            "A head in the middle of the network answers where it is sure.",
            Form.EXPORT,
            {
                "after": Setting(default=1, low=1, high=2),
                "epochs": _EPOCHS,
                "learning_rate": Setting(default=0.003, low=1e-8, high=10.0),
                "samples": _TRAINED_ON,
                "points": _POINTS,
            },
            trains=True,
        ),
        "pt2e": Technique(
            "Weights and activations as 8-bit integers, by the export path of PyTorch itself.",
            Form.EXPORT,
            {"samples": _SAMPLES},
        ),
        "qat": Technique(
            "Trained on with the rounding of 8-bit integers in place.",
            Form.EXPORT,
            {
                "epochs": _EPOCHS,
                "learning_rate": Setting(default=0.0003, low=1e-8, high=10.0),
                "samples": _TRAINED_ON,
                "calibration": _SAMPLES,
            },
            trains=True,
        ),
        "float16": Technique("Weights and arithmetic in 16 bits.", Form.FILE, {}),
        "low_rank": Technique(
            "A language model's linear layers as the product of two thin ones.",
            Form.LANGUAGE,
            {
                "keep": Setting(default=0.8, low=0.01, high=1.0),
                "aware": Setting(default=True),
                "samples": Setting(default=128, low=1, high=100_000),
            },
        ),
        "lora": Technique(
            "A language model trained on by low-rank adapters.",
            Form.LANGUAGE,
            {
                "steps": Setting(default=25, low=1, high=1_000_000),
                "batch_size": Setting(default=8, low=1, high=1_024),
                "learning_rate": Setting(default=0.004, low=1e-8, high=10.0),
                "rank": Setting(default=8, low=1, high=1_024),
                "alpha": Setting(default=16.0, low=1e-3, high=1e6),
                "merge": Setting(default=True),
            },
            trains=True,
        ),
        "merge": Technique("Adapters folded into the weights that they belong to.", Form.LANGUAGE, {}),
        "weight_only": Technique(
            "A language model's weights as whole numbers.",
            Form.LANGUAGE,
            {
                "bits": Setting(default="8", choices=("8", "4")),
                "group": Setting(default=32, low=0, high=65_536),
            },
        ),
    }
)
LIMITS: Mapping[str, Setting] = MappingProxyType(
    {
        "perplexity": Setting(default=1.05, low=0.0, high=1e6),
        "points_lost": Setting(default=1.0, low=-100.0, high=100.0),
        "smaller": Setting(default=0.0, low=0.0, high=1e6),
        "slower": Setting(default=1.05, low=0.0, high=1e6),
        "p95_ms": Setting(default=0.0, low=0.0, high=1e9),
        "batch": Setting(default=32, low=1, high=65_536),
    }
)
"""What a variant must keep: a language model's perplexity over the original's; percentage points of accuracy, times smaller
(0: any), times the original's median latency at one batch size, and its own p95 there (0: any)."""
SEARCH: Mapping[str, Setting] = MappingProxyType(
    {
        "trials": Setting(default=12, low=1, high=1_000),
        "seconds": Setting(default=480.0, low=1.0, high=86_400.0),
    }
)
PLAIN: Mapping[str, Setting] = MappingProxyType(
    {
        "threads": Setting(default=1, low=1, high=256),
        "measure_seconds": Setting(default=2.0, low=0.05, high=600.0),
        "attack_samples": Setting(default=0, low=0, high=10**9),
        "block_tokens": Setting(default=128, low=4, high=8_192),
        "test_blocks": Setting(default=64, low=2, high=1_000_000),
    }
)
"""`measure_seconds` is spent on each model at each batch size; so many test images are attacked. Language models are judged
on so many blocks of so many tokens."""


def read(given: Mapping[str, Any]) -> dict[str, Any]:
    """A whole plan: every setting as given, else its default.

    Raises:
        InvalidArgument: naming what is unknown, out of range or in an order that cannot be.
    """
    known = ("steps", "limits", "search", *PLAIN)
    for key in given:
        if key not in known:
            raise InvalidArgument.of(f"{_AT}.{key}", f"unknown; there are {', '.join(known)}")
    if bool(given.get("steps")) == ("search" in given):
        raise InvalidArgument.of(f"{_AT}.steps", "say what to do: either `steps`, or `search` for a goal")
    plan: dict[str, Any] = {key: _one(PLAIN[key], f"{_AT}.{key}", given.get(key)) for key in PLAIN}
    plan["limits"] = _settings(LIMITS, f"{_AT}.limits", given.get("limits") or {})
    if "search" in given:
        plan["search"] = _settings(SEARCH, f"{_AT}.search", given["search"] or {})
    else:
        plan["steps"] = read_steps(given["steps"])
    return plan


def read_steps(given: Sequence[Any]) -> list[dict[str, dict[str, Value]]]:
    """Steps as `[{technique: settings}]`, checked.

    Raises:
        InvalidArgument: naming the step.
    """
    at = f"{_AT}.steps"
    if not isinstance(given, Sequence) or isinstance(given, str) or not 0 < len(given) <= STEPS_MAX:
        raise InvalidArgument.of(at, f"must be a list of 1 to {STEPS_MAX} techniques")
    steps: list[dict[str, dict[str, Value]]] = []
    in_file = ""
    for number, each in enumerate(given):
        step = {each: {}} if isinstance(each, str) else each
        if not isinstance(step, Mapping) or len(step) != 1:
            raise InvalidArgument.of(f"{at}[{number}]", "must be one technique, such as `int8_static: {}`")
        ((name, settings),) = step.items()
        technique = TECHNIQUES.get(name)
        if technique is None:
            raise InvalidArgument.of(
                f"{at}[{number}]", f"no technique is called {name!r}; there are {', '.join(TECHNIQUES)}"
            )
        languages = {TECHNIQUES[known].form is Form.LANGUAGE for each in steps for known in each}
        if languages - {technique.form is Form.LANGUAGE}:
            raise InvalidArgument.of(f"{at}[{number}]", f"{name} is not for the model of the steps before it")
        if in_file:
            raise InvalidArgument.of(f"{at}[{number}]", f"{name} cannot follow {in_file}, which comes last")
        if technique.form in (Form.FILE, Form.EXPORT):
            in_file = name
        steps.append({name: _settings(technique.settings, f"{at}[{number}].{name}", settings or {})})
    return steps


def words(steps: Sequence[Mapping[str, Mapping[str, Value]]]) -> str:
    """Steps in one line: `svd(keep=0.2) + int8_static`, with what differs from the defaults."""
    parts = []
    for step in steps:
        for name, settings in step.items():
            known = TECHNIQUES[name].settings
            told = [f"{key}={value}" for key, value in settings.items() if value != known[key].default]
            parts.append(f"{name}({', '.join(told)})" if told else name)
    return " + ".join(parts)


def _settings(known: Mapping[str, Setting], at: str, given: object) -> dict[str, Value]:
    if not isinstance(given, Mapping):
        raise InvalidArgument.of(at, f"must be keys with values: {', '.join(known)}")
    for key in given:
        if key not in known:
            raise InvalidArgument.of(f"{at}.{key}", f"unknown; there are {', '.join(known) or 'none'}")
    return {key: _one(setting, f"{at}.{key}", given.get(key)) for key, setting in known.items()}


def _one(setting: Setting, at: str, value: object) -> Value:
    return setting.default if value is None else setting.read(at, value)
