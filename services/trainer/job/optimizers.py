"""The optimizers by the names that `catalog` offers, each as the update that it makes.

θ parameters, g gradient, η learning rate, λ weight decay, t step from 1. What is held between steps stands in `state`,
so a checkpoint has it. The same rules on a GPU and on a processor, checked against torch's own in the tests.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

MOMENTUM = 0.9
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


def sgd(θ: torch.Tensor, g: torch.Tensor, state: dict[str, Any], η: float, λ: float) -> None:
    """θ ← θ − η (g + λθ). Called `gd` where the gradient is that of all data (Robbins and Monro 1951)."""
    θ.sub_(g + λ * θ, alpha=η)


def momentum(θ: torch.Tensor, g: torch.Tensor, state: dict[str, Any], η: float, λ: float) -> None:
    """v ← 0.9 v + g + λθ; θ ← θ − η v  (Polyak 1964)."""
    v = state.setdefault("v", torch.zeros_like(θ))
    v.mul_(MOMENTUM).add_(g + λ * θ)
    θ.sub_(v, alpha=η)


def adam(θ: torch.Tensor, g: torch.Tensor, state: dict[str, Any], η: float, λ: float) -> None:
    """m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g²; θ ← θ − η m̂ / (√v̂ + ε), with g + λθ for g  (Kingma and Ba 2015)."""
    g = g + λ * θ
    m, v = state.setdefault("m", torch.zeros_like(θ)), state.setdefault("v", torch.zeros_like(θ))
    state["t"] = t = state.get("t", 0) + 1
    m.mul_(BETA1).add_(g, alpha=1 - BETA1)
    v.mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
    m_scale, v_scale = 1 / (1 - BETA1**t), 1 / (1 - BETA2**t)  # unbiased: both began at 0
    θ.addcdiv_(m, (v * v_scale).sqrt_().add_(EPSILON), value=-η * m_scale)


def adamw(θ: torch.Tensor, g: torch.Tensor, state: dict[str, Any], η: float, λ: float) -> None:
    """θ ← θ − η λ θ, then Adam's step on g alone  (Loshchilov and Hutter 2019)."""
    θ.mul_(1 - η * λ)
    adam(θ, g, state, η, 0.0)


Rule = Callable[[torch.Tensor, torch.Tensor, dict[str, Any], float, float], None]
RULES: dict[str, Rule] = {"gd": sgd, "sgd": sgd, "momentum": momentum, "adam": adam, "adamw": adamw}


class Descent(torch.optim.Optimizer):
    """Applies one rule to every parameter that has a gradient."""

    def __init__(
        self, rule: Rule, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})
        self._rule = rule

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._rule(
                        parameter, parameter.grad, self.state[parameter], group["lr"], group["weight_decay"]
                    )


def make(name: str, parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float) -> Descent:
    """The optimizer called `name`."""
    if name not in RULES:
        raise ValueError(f"no optimizer is called {name!r}")
    return Descent(RULES[name], parameters, learning_rate, weight_decay)
