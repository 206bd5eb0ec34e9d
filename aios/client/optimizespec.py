"""`optimize.yaml`: how to make a model version smaller or faster, and an assessment of one, as runs. Pure."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from aios.errors import InvalidArgument
from aios.names import ModelVersionName

PLAN_KEYS = (
    *("steps", "limits", "search", "threads", "measure_seconds", "attack_samples"),
    *("block_tokens", "test_blocks"),
)
ASSESS = "assess"  # the recipe
RUN_KEYS = ("name", "dataset", "model", "seed", "resources", "description", "priority", "queue", "scheduling")
RESOURCES = {"cpu": 1, "memory": "2Gi"}
"""Of a plan that says nothing: the original, the variant and their two servers are in memory at once."""


def optimization(base: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a run.yaml would say of it.

    Args:
        base: Full name of the model version.

    Raises:
        InvalidArgument: naming an unknown key, with the likely one.
    """
    known = (*PLAN_KEYS, *RUN_KEYS)
    for key in given:
        if key not in known:
            near = get_close_matches(str(key), known, 1, cutoff=0.5)
            advice = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise InvalidArgument.of(str(key), f"unknown key; {advice}")
    return {
        "recipe": "optimize",
        "base_model": base,
        "model": f"{ModelVersionName.parse(base).model}-optimized",
        "resources": RESOURCES,
        **{key: given[key] for key in RUN_KEYS if given.get(key) is not None},
        "hyperparameters": {key: given[key] for key in PLAN_KEYS if key in given},
    }


def assessment(base: str, dataset: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a run.yaml would say of the assessment of a model version.

    Args:
        base: Full name of the model version.
        settings: Of the recipe `assess`.
    """
    return {
        "recipe": ASSESS,
        "base_model": base,
        "dataset": dataset,
        "resources": RESOURCES,
        "hyperparameters": dict(settings),
    }
