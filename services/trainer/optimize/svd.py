"""Low rank: a layer's matrix W (m x n) as the product of two thin ones, W ≈ U_k Σ_k V_kᵀ.

Saves where k < mn/(m+n); other layers stay. A convolution is reshaped to [out, in·kh·kw]: it becomes one with k
channels, and one of 1x1.

Plain (Eckart and Young 1936): the nearest matrix of rank k. Activation-aware (after Wang et al., SVD-LLM, 2024): the
nearest outputs. Let μ be the mean of the layer's inputs on calibration samples and G = E[(x−μ)(x−μ)ᵀ] their Gram matrix
around it, G = QΛQᵀ and S = QΛ^½. What W' misses of the mean goes into the bias, b' = b + (W − W')μ, so the error is
E‖W(x−μ) − W'(x−μ)‖² = ‖(W − W')S‖², least for W' = [WS]_k S⁻¹. `eigh` with small eigenvalues clamped takes a G without
full rank, where Cholesky fails.

Rank of each layer: `energy` keeps that share of Σσ²; `budget` and `sensitivity` keep at most the share `keep` of the
network's parameters, and choose all ranks at once so that the loss is least: Σ loss + λ·parameters, with λ by bisection.
The loss of a rank is the share of Σσ² that it drops, or the rise of the cross-entropy on validation samples when it
alone is dropped.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from services.trainer.optimize import networks
from services.trainer.optimize.networks import Net
from services.trainer.optimize.task import Task, logits

CLAMP = 1e-6  # of the largest eigenvalue
PATCHES_MAX = 100_000  # of a convolution's input: neighbours say much the same
SENSITIVITY_RANKS = 6  # a layer is tried at so many
SENSITIVITY_SAMPLES = 1_000
BISECTIONS = 60


def apply(net: Net, task: Task, settings: Mapping[str, Any]) -> Net:
    """The network with the layers factored where that saves."""
    found = net.copy()
    samples = task.calibration(settings["samples"])
    inputs = _inputs(found.module, samples) if settings["aware"] else {}
    factored = {
        name: decompose(networks.matrix(layer), *inputs.get(name, (None, None)))
        for name, layer in networks.layers(found.module).items()
    }
    ranks = _ranks(found, task, factored, settings)
    for name, rank in ranks.items():
        _replace(found.module, name, rank, factored[name])
    return Net(found.module, {**net.description, "ranks": {**net.description.get("ranks", {}), **ranks}})


@dataclass(frozen=True)
class Factors:
    """A matrix in parts: its rank-k neighbour is U_k Σ_k V_kᵀ, the last with S⁻¹ in it."""

    u_MR: torch.Tensor
    sigma_R: torch.Tensor
    vt_RN: torch.Tensor
    missed: Callable[[torch.Tensor], torch.Tensor]
    """What a neighbour misses of the mean output. Shape: [M]."""

    @property
    def useful(self) -> int:
        """The largest rank that saves; 0 where none does."""
        rows, columns = len(self.u_MR), self.vt_RN.shape[1]
        return (rows * columns - 1) // (rows + columns)


def decompose(
    weights_MN: torch.Tensor, gram_NN: torch.Tensor | None = None, mean_N: torch.Tensor | None = None
) -> Factors:
    """The factors of a matrix: those of least output error where its inputs are known."""
    weights = weights_MN.double()

    def missed(near_MN: torch.Tensor) -> torch.Tensor:
        return (weights - near_MN) @ (torch.zeros(weights.shape[1]).double() if mean_N is None else mean_N)

    if gram_NN is None:
        u, sigma, vt = torch.linalg.svd(weights, full_matrices=False)
        return Factors(u, sigma, vt, missed)
    values, vectors = torch.linalg.eigh(gram_NN.double())
    root = values.clamp_min(CLAMP * float(values.max())).sqrt()
    u, sigma, vt = torch.linalg.svd(weights @ (vectors * root), full_matrices=False)
    return Factors(u, sigma, (vt / root) @ vectors.T, missed)


def _inputs(module: nn.Module, samples: torch.Tensor) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Gram matrix around the mean, and the mean, of each layer's inputs."""
    sums: dict[str, tuple[torch.Tensor, torch.Tensor, int]] = {}

    def watch(name: str, layer: nn.Linear | nn.Conv2d) -> Any:
        def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            x = inputs[0]
            if isinstance(layer, nn.Conv2d):
                kernel, stride, padding = (
                    networks.pair(each) for each in (layer.kernel_size, layer.stride, layer.padding)
                )
                x = functional.unfold(x, kernel, padding=padding, stride=stride).transpose(1, 2)
                step = 1 + x.shape[1] * len(samples) // PATCHES_MAX
                x = x[:, int(torch.randint(step, ())) :: step]
            x = x.reshape(-1, x.shape[-1])
            products, total, count = sums.get(name, (torch.zeros(()), torch.zeros(()), 0))
            sums[name] = products + (x.T @ x).double(), total + x.double().sum(0), count + len(x)

        return layer.register_forward_pre_hook(hook)

    handles = [watch(name, layer) for name, layer in networks.layers(module).items()]
    logits(module, samples)
    for handle in handles:
        handle.remove()
    found = {}
    for name, (products, total, count) in sums.items():
        mean = total / count
        found[name] = products / count - torch.outer(mean, mean), mean
    return found


def _ranks(
    net: Net, task: Task, factored: Mapping[str, Factors], settings: Mapping[str, Any]
) -> dict[str, int]:
    if settings["rank"] == "energy":
        wanted = {name: _by_energy(each.sigma_R, settings["energy"]) for name, each in factored.items()}
        return {name: rank for name, rank in wanted.items() if rank <= factored[name].useful}
    measured = settings["rank"] == "sensitivity"
    options = {
        name: _measured(net, task, name, each) if measured else _by_share(each)
        for name, each in factored.items()
    }
    fixed = net.parameters - sum(len(each.u_MR) * each.vt_RN.shape[1] for each in factored.values())
    return _allocate(options, factored, settings["keep"] * net.parameters - fixed)


def _by_energy(sigma: torch.Tensor, share: float) -> int:
    energy = (sigma**2).cumsum(0)
    return int((energy < share * float(energy[-1])).sum()) + 1


def _by_share(each: Factors) -> dict[int, float]:
    energy = each.sigma_R**2
    tail = 1 - energy.cumsum(0) / energy.sum()
    return {rank: float(tail[rank - 1]) for rank in range(1, each.useful + 1)}


def _measured(net: Net, task: Task, name: str, each: Factors) -> dict[int, float]:
    inputs, labels = (
        task.validation.inputs[:SENSITIVITY_SAMPLES],
        task.validation.labels_N[:SENSITIVITY_SAMPLES],
    )
    before = float(functional.cross_entropy(logits(net.module, inputs), labels))
    most = each.useful
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
            rows, columns = len(factored[name].u_MR), factored[name].vt_RN.shape[1]
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
    first, second = networks.factor(module, name, rank)
    root = each.sigma_R[:rank].sqrt()
    thin = (root[:, None] * each.vt_RN[:rank], each.u_MR[:, :rank] * root)
    with torch.no_grad():
        for layer, weights in zip((first, second), thin, strict=True):
            layer.weight.copy_(weights.reshape(layer.weight.shape))
        assert second.bias is not None
        second.bias += each.missed(thin[1] @ thin[0])
