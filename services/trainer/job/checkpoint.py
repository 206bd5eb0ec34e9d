"""Training state to files and back: safetensors and JSON, never pickle."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"


def save(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, **state: int | float) -> None:
    """Write all that training needs to go on exactly as if it had not stopped.

    Args:
        state: Counters of the loop, such as `step`.
    """
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / MODEL)
    tensors: dict[str, torch.Tensor] = {"rng": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    scalars: dict[str, Any] = {}
    for index, values in optimizer.state_dict()["state"].items():
        for key, value in values.items():
            target = tensors if isinstance(value, torch.Tensor) else scalars
            target[f"{index}.{key}"] = value
    save_file(tensors, folder / OPTIMIZER)
    (folder / STATE).write_text(json.dumps({"loop": state, "optimizer": scalars}, sort_keys=True))


def load(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Read what `save` wrote into a model and an optimizer of the same shape, and return the loop's counters."""
    state: dict[str, Any] = json.loads((folder / STATE).read_text())
    model.load_state_dict(load_file(folder / MODEL))
    tensors = load_file(folder / OPTIMIZER)
    torch.set_rng_state(tensors.pop("rng"))
    if (cuda := tensors.pop("rng.cuda", None)) is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(cuda)
    slots: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **state["optimizer"]}.items():
        index, key = name.split(".", 1)
        slots.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    loop: dict[str, Any] = state["loop"]
    return loop
