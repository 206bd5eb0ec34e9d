"""Low rank: a layer's matrix W (m x n) as the product of two thin ones, W ≈ U_k Σ_k V_kᵀ.

Saves where k < mn/(m+n); other layers stay. A convolution is reshaped to [out, in·kh·kw]: it becomes one with k
channels, and one of 1x1.

Plain (Eckart and Young 1936): the nearest matrix of rank k. Activation-aware (after Wang et al., SVD-LLM, 2024): the
nearest outputs. With the Gram matrix G = E[xxᵀ] of the layer's inputs on calibration samples, G = QΛQᵀ and
S = QΛ^½, the error E‖Wx − W'x‖² is ‖(W − W')S‖², so W' = [WS]_k S⁻¹. `eigh` with small eigenvalues clamped takes a G
without full rank, where Cholesky fails.

Rank of each layer: `energy` keeps that share of Σσ²; `budget` and `sensitivity` keep at most the share `keep` of the
network's parameters, and choose all ranks at once so that the loss is least: Σ loss + λ·parameters, with λ by bisection.
The loss of a rank is the share of Σσ² that it drops, or the rise of the cross-entropy on validation samples when it
alone is dropped.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from services.trainer.optimize import networks
from services.trainer.optimize.networks import Net
from services.trainer.optimize.task import Task, logits

CLAMP = 1e-6  # of the largest eigenvalue
SENSITIVITY_RANKS = 6  # a layer is tried at so many
SENSITIVITY_SAMPLES = 1_000
BISECTIONS = 60


def apply(net: Net, task: Task, settings: Mapping[str, Any]) -> Net:
    """The network with the layers factored where that saves."""
    found = net.copy()
    samples = task.calibration(settings["samples"])
    grams = _grams(found.module, samples) if settings["aware"] else {}
    factored = {
        name: _decompose(networks.matrix(layer), grams.get(name))
        for name, layer in networks.layers(found.module).items()
    }
    ranks = _ranks(found, task, factored, settings)
    for name, rank in ranks.items():
        _replace(found.module, name, rank, factored[name])
    return Net(found.module, {**net.description, "ranks": {**net.description.get("ranks", {}), **ranks}})


Factors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""U [M, R], σ [R] and Vᵀ [R, N], the last with S⁻¹ in it."""


def _decompose(weights_MN: torch.Tensor, gram_NN: torch.Tensor | None) -> Factors:
    weights = weights_MN.double()
    if gram_NN is None:
        u, sigma, vt = torch.linalg.svd(weights, full_matrices=False)
        return u, sigma, vt
    values, vectors = torch.linalg.eigh(gram_NN.double())
    root = values.clamp_min(CLAMP * float(values.max())).sqrt()
    u, sigma, vt = torch.linalg.svd(weights @ (vectors * root), full_matrices=False)
    return u, sigma, (vt / root) @ vectors.T


def _grams(module: nn.Module, samples: torch.Tensor) -> dict[str, torch.Tensor]:
    """E[xxᵀ] of each layer's inputs."""
    sums: dict[str, torch.Tensor] = {}

    def watch(name: str, layer: nn.Linear | nn.Conv2d) -> Any:
        def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            x = inputs[0]
            if isinstance(layer, nn.Conv2d):
                kernel, stride, padding = (
                    networks.pair(each) for each in (layer.kernel_size, layer.stride, layer.padding)
                )
                x = functional.unfold(x, kernel, padding=padding, stride=stride).transpose(1, 2)
            x = x.reshape(-1, x.shape[-1]).double()
            sums[name] = sums.get(name, torch.zeros(())) + x.T @ x

        return layer.register_forward_pre_hook(hook)

    handles = [watch(name, layer) for name, layer in networks.layers(module).items()]
    logits(module, samples)
    for handle in handles:
        handle.remove()
    return sums


def _ranks(
    net: Net, task: Task, factored: Mapping[str, Factors], settings: Mapping[str, Any]
) -> dict[str, int]:
    if settings["rank"] == "energy":
        wanted = {name: _by_energy(sigma, settings["energy"]) for name, (_, sigma, _) in factored.items()}
        return {name: rank for name, rank in wanted.items() if rank <= _useful(factored[name])}
    measured = settings["rank"] == "sensitivity"
    options = {
        name: _measured(net, task, name, each) if measured else _by_share(each)
        for name, each in factored.items()
    }
    fixed = net.parameters - sum(len(u) * vt.shape[1] for u, _, vt in factored.values())
    return _allocate(options, factored, settings["keep"] * net.parameters - fixed)


def _by_energy(sigma: torch.Tensor, share: float) -> int:
    energy = (sigma**2).cumsum(0)
    return int((energy < share * float(energy[-1])).sum()) + 1


def _useful(each: Factors) -> int:
    """The largest rank that saves; 0 where none does."""
    rows, columns = len(each[0]), each[2].shape[1]
    return (rows * columns - 1) // (rows + columns)


def _by_share(each: Factors) -> dict[int, float]:
    energy = each[1] ** 2
    tail = 1 - energy.cumsum(0) / energy.sum()
    return {rank: float(tail[rank - 1]) for rank in range(1, _useful(each) + 1)}


def _measured(net: Net, task: Task, name: str, each: Factors) -> dict[int, float]:
    inputs, labels = (
        task.validation.inputs[:SENSITIVITY_SAMPLES],
        task.validation.labels_N[:SENSITIVITY_SAMPLES],
    )
    before = float(functional.cross_entropy(logits(net.module, inputs), labels))
    most = _useful(each)
    ranks = sorted({max(1, round(most * 0.5**step)) for step in range(SENSITIVITY_RANKS)}) if most else []
    losses = {}
    for rank in ranks:
        tried = net.copy().module
        _replace(tried, name, rank, each)
        losses[rank] = float(functional.cross_entropy(logits(tried, inputs), labels)) - before
    return losses


def _allocate(
    options: Mapping[str, Mapping[int, float]], factored: Mapping[str, Factors], budget: float
) -> dict[str, int]:
    """The ranks of least loss within a budget of parameters; a layer that is not named stays whole."""

    def chosen(price: float) -> tuple[dict[str, int], float]:
        ranks, cost = {}, 0.0
        for name, losses in options.items():
            rows, columns = len(factored[name][0]), factored[name][2].shape[1]
            best, paid = price * rows * columns, float(rows * columns)
            rank_of_best = 0
            for rank, loss in losses.items():
                parameters = rank * (rows + columns)
                if loss + price * parameters < best:
                    best, paid, rank_of_best = loss + price * parameters, float(parameters), rank
            if rank_of_best:
                ranks[name] = rank_of_best
            cost += paid
        return ranks, cost

    low, high = 1e-12, 1e3
    for _ in range(BISECTIONS):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if chosen(middle)[1] <= budget else (middle, high)
    return chosen(high)[0]


def _replace(module: nn.Module, name: str, rank: int, each: Factors) -> None:
    u, sigma, vt = each
    first, second = networks.factor(module, name, rank)
    root = sigma[:rank].sqrt()
    for layer, weights in ((first, root[:, None] * vt[:rank]), (second, u[:, :rank] * root)):
        assert isinstance(layer.weight, torch.Tensor)
        with torch.no_grad():
            layer.weight.copy_(weights.reshape(layer.weight.shape))
