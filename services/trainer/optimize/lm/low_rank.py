"""Low rank: a linear layer's matrix W (m x n) as the product B A of two thin ones of rank k = keep·mn/(m+n).

Plain (Eckart and Young 1936): the nearest matrix, W ≈ U_k Σ_k V_kᵀ. Activation-aware (after Wang et al., SVD-LLM, 2024):
the nearest outputs. Let G = E[xxᵀ] be the Gram matrix of the layer's inputs on calibration texts, G = SSᵀ. The error
E‖Wx − W'x‖² = ‖(W − W')S‖² is least for W' = [WS]_k S⁻¹, in closed form. S is QΛ^½ of G = QΛQᵀ with small eigenvalues
clamped: `eigh` takes a G without full rank, where Cholesky fails. Where m ≤ n no root is needed: [WS]_k S⁻¹ = U_k U_kᵀ W,
and U_k are eigenvectors of WS(WS)ᵀ = WGWᵀ. Otherwise V_k are those of (WS)ᵀWS, and W' = (WS V_k)(V_kᵀ S⁻¹): both are
eigenvectors of the smaller side alone, many times faster than the singular value decomposition.

Shapes: M outputs, N inputs, R rank, B samples, T tokens.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from aios.train import light
from services.trainer.optimize.lm.models import Model
from services.trainer.optimize.lm.texts import BATCH, Texts
from services.trainer.optimize.task import NotOptimizable

CLAMP = 1e-6  # of the largest eigenvalue


def apply(model: Model, texts: Texts, settings: Mapping[str, Any]) -> None:
    """Put two thin layers in place of each linear layer of the blocks.

    Raises:
        NotOptimizable: a layer is thin or rounded already, or has adapters.
    """
    module = model.module
    layers = light.named_linears(module)
    if model.ranks or model.bits:
        raise NotOptimizable("Layers that are thin or rounded already are not factored again.")
    if model.adapters is not None:
        raise NotOptimizable("Adapters are folded in by `merge` before layers are factored.")
    blocks_NT = texts.calibration(settings["samples"])
    grams = _grams(module, layers, blocks_NT) if settings["aware"] else {}
    for name, layer in layers.items():
        rows, columns = layer.weight.shape
        rank = max(1, int(settings["keep"] * rows * columns / (rows + columns)))
        made: Any = light.thin(layer, rank)
        with torch.no_grad():
            for part, values in zip(made, nearest(layer.weight, rank, grams.get(name)), strict=True):
                part.weight.copy_(values)
            if layer.bias is not None:
                made[1].bias.copy_(layer.bias)
        light.replace(module, name, made.requires_grad_(False))
        model.ranks[name] = rank


@torch.no_grad()
def nearest(
    weights: torch.Tensor, rank: int, gram_NN: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """A [R, N] and B [M, R] whose product is the nearest of its rank, by outputs where the inputs' Gram matrix is known."""
    weights_MN = weights.double()
    rows, columns = weights_MN.shape
    gram = torch.eye(columns).double() if gram_NN is None else gram_NN.double()
    if rows <= columns:
        u_MR = torch.linalg.eigh(weights_MN @ gram @ weights_MN.T).eigenvectors[:, -rank:]
        return u_MR.T @ weights_MN, u_MR
    values, vectors = torch.linalg.eigh(gram)
    root_N = values.clamp_min(CLAMP * float(values.max())).sqrt()
    seen_MN = weights_MN @ (vectors * root_N)
    v_NR = torch.linalg.eigh(seen_MN.T @ seen_MN).eigenvectors[:, -rank:]
    return v_NR.T / root_N @ vectors.T, seen_MN @ v_NR


def _grams(
    module: nn.Module, layers: Mapping[str, nn.Module], blocks_NT: torch.Tensor
) -> dict[str, torch.Tensor]:
    sums = {name: torch.zeros(()) for name in layers}
    for seen in _inputs(module, layers, blocks_NT):
        for name, x_BN in seen.items():
            sums[name] = sums[name] + x_BN.T @ x_BN
    return sums


@torch.no_grad()
def _inputs(module: nn.Module, layers: Mapping[str, nn.Module], blocks_NT: torch.Tensor) -> Any:
    """Batch by batch what each layer is given. Shape: [B, N]."""
    seen: dict[str, torch.Tensor] = {}

    def watch(name: str) -> Any:
        def hook(_: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
            seen[name] = given[0].flatten(0, 1)

        return hook

    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    try:
        for part_BT in blocks_NT.split(BATCH):
            module(input_ids=part_BT, use_cache=False)
            yield dict(seen)
    finally:
        for handle in handles:
            handle.remove()
