"""Language models whose linear layers take less room than their weights would: thin, rounded, or with adapters beside.

`config.json` of a directory in Hugging Face's layout says what the layers are, so that `from_pretrained` builds them once
this module is imported:

    "quantization_config": {"quant_method": "aios", "ranks": {"model.layers.0.mlp.up_proj": 334},
                            "bits": {"model.layers.0.mlp.up_proj.0": 8}, "group": 0}

`ranks` names layers that are products of two thin ones, `.0` and `.1`; `bits` those, thin ones too, whose weights are
whole numbers. `adapters.safetensors` beside the weights holds low-rank changes that are added as they are served; see
`Adapters`.

Rounding: W ≈ s·Q with Q in −127..127 (4 bits: −7..7) and one s for each row, or for each `group` of its columns:
s = max|W| / 127, so that no value is cut off. Floats are made of them when they are read: a processor without instructions
for it is many times slower at multiplying by whole numbers, or at making floats of them at each call.

Shapes: M outputs, N inputs, G groups of a row, B samples.
"""

import json
import logging
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file, save_model
from torch import nn
from torch.nn import functional
from transformers import AutoModelForCausalLM

# What follows imports torchao where it is installed, which warns of its kernels for other machines.
for _each in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_each).setLevel(logging.ERROR)

from transformers.quantizers.auto import register_quantization_config, register_quantizer  # noqa: E402
from transformers.quantizers.base import HfQuantizer  # noqa: E402
from transformers.utils.quantization_config import QuantizationConfigMixin  # noqa: E402

METHOD = "aios"
WEIGHTS_FILE, ADAPTERS_FILE = "model.safetensors", "adapters.safetensors"
LEVELS = {8: 127, 4: 7}


class Rounded(nn.Module):
    """A linear layer whose weights are whole numbers, as it is stored. Two of 4 bits lie in a byte."""

    weight: torch.Tensor
    scale_MG: torch.Tensor

    def __init__(
        self, columns: int, rows: int, bits: int, group: int, *, bias: bool = False, device: Any = None
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bits = columns, rows, bits
        stored = (torch.int8, columns) if bits == 8 else (torch.uint8, columns // 2)
        self.register_buffer("weight", torch.empty(rows, stored[1], dtype=stored[0], device=device))
        self.register_buffer("scale_MG", torch.empty(rows, columns // (group or columns), device=device))
        self.bias = nn.Parameter(torch.empty(rows, device=device), requires_grad=False) if bias else None

    @classmethod
    def of(cls, layer: nn.Linear, bits: int, group: int) -> "Rounded":
        """The nearest to a layer. `group` must divide its columns; 0 is a whole row."""
        rows, columns = layer.weight.shape
        made = cls(columns, rows, bits, group)
        made.bias = layer.bias
        parts_MGN = layer.weight.detach().float().reshape(rows, -1, group or columns)
        scale_MG = parts_MGN.abs().amax(2).clamp_min(1e-8) / LEVELS[bits]
        made.scale_MG = scale_MG.half().float()  # as it is stored
        whole = (parts_MGN / made.scale_MG[..., None]).round().clamp(-LEVELS[bits], LEVELS[bits])
        whole_MN = whole.reshape(rows, columns).to(torch.int8)
        made.weight = whole_MN if bits == 8 else _packed(whole_MN)
        return made

    def floats(self) -> torch.Tensor:
        """What the numbers stand for. Shape: [M, N]."""
        whole_MN = self.weight if self.bits == 8 else _unpacked(self.weight)
        parts_MGN = whole_MN.reshape(self.out_features, self.scale_MG.shape[1], -1)
        return (parts_MGN * self.scale_MG[..., None]).reshape(self.out_features, self.in_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As it will answer once it was stored and read."""
        return functional.linear(x, self.floats(), self.bias)


class Adapters(nn.Module):
    """A and B of every linear layer of a model's blocks, y = Wx + (α/r) B A x, and their place in its forward pass.

    A is drawn at random and B is zero, so that nothing has changed before they are trained (LoRA, Hu et al. 2021).

    Args:
        model: Stays as it is until `merge`.
    """

    def __init__(self, model: nn.Module, rank: int, alpha: float) -> None:
        super().__init__()
        self._alpha, self._scale = alpha, alpha / rank
        self._linears = linears(model)
        self._down = [nn.Linear(each.in_features, rank, bias=False) for each in self._linears]
        self._up = [nn.Linear(rank, each.out_features, bias=False) for each in self._linears]
        self.down, self.up = nn.ModuleList(self._down), nn.ModuleList(self._up)
        for down, up in zip(self._down, self._up, strict=True):
            nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))
            nn.init.zeros_(up.weight)
        self._hooks = [
            linear.register_forward_hook(self._added(index)) for index, linear in enumerate(self._linears)
        ]

    def save(self, folder: Path) -> None:
        """Beside the weights that they belong to."""
        save_file(self.state_dict(), folder / ADAPTERS_FILE, metadata={"alpha": str(self._alpha)})

    def merge(self) -> None:
        """Fold the change into the weights, and step aside."""
        self.detach()
        with torch.no_grad():
            for linear, down, up in zip(self._linears, self._down, self._up, strict=True):
                linear.weight += self._scale * up.weight @ down.weight

    def detach(self) -> None:
        """Step aside."""
        for hook in self._hooks:
            hook.remove()

    def _added(self, index: int) -> Any:
        down, up = self._down[index], self._up[index]

        def add(_: nn.Module, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
            change: torch.Tensor = up(down(given[0]))
            return out + self._scale * change

        return add


def attach(model: Any, folder: Path) -> Adapters | None:
    """The adapters of a directory, put into its model; None where it has none."""
    file = folder / ADAPTERS_FILE
    if not file.is_file():
        return None
    with safe_open(file, "pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a mapping
        alpha = float((opened.metadata() or {})["alpha"])
    adapters = Adapters(model, len(tensors["down.0.weight"]), alpha)
    adapters.load_state_dict(tensors)
    adapters.to(model.device).requires_grad_(False)
    model.adapters = adapters  # it lives as long, and moves with it
    return adapters


def load(folder: Path) -> Any:
    """A causal language model in float32 with all that lies in its directory; to be asked, not yet to be trained."""
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, use_safetensors=True, dtype=torch.float32, local_files_only=True, trust_remote_code=False
    )
    model.eval().requires_grad_(False)
    attach(model, folder)
    return model


def fold(model: Any) -> None:
    """Fold the adapters that were read with a model into its weights, where there are any."""
    adapters = model._modules.pop("adapters", None)
    if adapters is not None:
        adapters.merge()


def save(model: Any, source: Path, folder: Path, layers: Mapping[str, Any], *, half: bool = False) -> None:
    """A directory with these weights, what its layers are, and all else of the directory that the model is from.

    Args:
        layers: `ranks`, `bits` and `group`; nothing where every layer is a plain one.
        half: Matrices of floats are stored in 16 bits, and so they are in `model` afterwards.
    """
    for each in source.iterdir():
        if each.is_file() and not each.name.endswith((".safetensors", ".safetensors.index.json")):
            shutil.copy(each, folder)
    if half:
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point() and tensor.dim() > 1:
                owner, _, leaf = name.rpartition(".")
                module = model.get_submodule(owner)
                stored = tensor.detach().half()
                setattr(
                    module,
                    leaf,
                    nn.Parameter(stored, requires_grad=False) if leaf in module._parameters else stored,
                )
        model.tie_weights()
    save_model(model, str(folder / WEIGHTS_FILE), metadata={"format": "pt"})
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config.pop("quantization_config", None)
    if layers:
        config["quantization_config"] = {"quant_method": METHOD, **layers}
    file.write_text(json.dumps(config, indent=2))


def layers_of(folder: Path) -> dict[str, Any]:
    """What `save` was told of a directory's layers."""
    told = dict(json.loads((folder / "config.json").read_text()).get("quantization_config") or {})
    return told if told.pop("quant_method", "") == METHOD else {}


def linears(model: Any) -> list[Any]:
    """The linear layers of the blocks: all but the one that gives the words."""
    return list(named_linears(model).values())


def named_linears(model: Any) -> dict[str, Any]:
    """The same by name."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    return {
        name: each for name, each in model.named_modules() if isinstance(each, nn.Linear) and each is not head
    }


def replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Put another layer in its place."""
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, layer)


def thin(layer: nn.Linear, rank: int) -> nn.Sequential:
    """Two layers of the shape that takes its place, without the weights."""
    device = layer.weight.device
    return nn.Sequential(
        nn.Linear(layer.in_features, rank, bias=False, device=device),
        nn.Linear(rank, layer.out_features, bias=layer.bias is not None, device=device),
    )


@register_quantization_config(METHOD)
class LightConfig(QuantizationConfigMixin):
    """What `config.json` says of the layers."""

    def __init__(
        self,
        ranks: Mapping[str, int] | None = None,
        bits: Mapping[str, int] | None = None,
        group: int = 0,
        **_: Any,
    ) -> None:
        self.quant_method = METHOD  # type: ignore[assignment]
        self.ranks, self.bits, self.group = dict(ranks or {}), dict(bits or {}), group


@register_quantizer(METHOD)
class LightQuantizer(HfQuantizer):
    """Builds the layers before the library reads their weights."""

    def _process_model_before_weight_loading(self, model: Any, **_: Any) -> Any:
        told: Any = self.quantization_config
        for name, rank in told.ranks.items():
            replace(model, name, thin(model.get_submodule(name), rank))
        for name, bits in told.bits.items():
            layer = model.get_submodule(name)
            shape = (layer.in_features, layer.out_features)
            has_bias = layer.bias is not None
            made = Rounded(*shape, bits, told.group, bias=has_bias, device=layer.weight.device)
            replace(model, name, made)
        return model

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        told: Any = self.quantization_config
        for name in told.bits:
            rounded = model.get_submodule(name)
            linear = nn.Linear(rounded.in_features, rounded.out_features, bias=False, device="meta")
            linear.weight, linear.bias = nn.Parameter(rounded.floats(), requires_grad=False), rounded.bias
            replace(model, name, linear)
        return model

    def is_serializable(self) -> bool:
        """By `save`."""
        return False

    @property
    def is_trainable(self) -> bool:
        """What is thin can be trained, and adapters beside what is rounded."""
        return True


def _packed(whole_MN: torch.Tensor) -> torch.Tensor:
    """Two numbers of −8..7 in each byte, the first in its low half."""
    shifted = (whole_MN + 8).to(torch.uint8)
    return shifted[:, 0::2] | (shifted[:, 1::2] << 4)


def _unpacked(bytes_MN: torch.Tensor) -> torch.Tensor:
    low, high = (bytes_MN & 15).to(torch.int8) - 8, (bytes_MN >> 4).to(torch.int8) - 8
    return torch.stack([low, high], 2).flatten(1)
