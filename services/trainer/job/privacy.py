"""Differentially private training: DP-SGD (Abadi et al. 2016), by Opacus.

Each step takes every sample with probability q on its own (Poisson sampling), clips the gradient of each sample to the
norm C, adds noise N(0, σ²C²) to their sum, and divides by the expected batch. σ is what spends ε after all steps at δ, as
the accountant of Rényi divergences has it (Mironov 2017).

Which samples are drawn and the noise must not be foreseen: they come from the operating system's entropy at each start of
the process, never from the run's seed, so that two private runs differ. Noise is the mean of several draws, which hides
the low bits of floating point (Opacus' secure mode; Holohan and Braghin 2021); the generator itself is torch's, not one
of cryptography. The accountant's history lies in each checkpoint: steps that a kill undid were never given to anybody.

What is not covered: that a training part exists and how large it is, the classes, and test metrics. The loss on training
samples is not reported.
"""

import json
import os
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from aios.errors import FailedPrecondition
from services.trainer.job import data

STATE_FILE = "privacy.json"
ACCOUNTANT = "rdp"


class PrivacyChanged(FailedPrecondition):
    """A checkpoint was made with another noise or sampling than this run has."""

    reason = "PRIVACY_CHANGED"


class Private:
    """The private parts of one training: its batches, its optimizer, what it has spent.

    Args:
        inner: Makes the update of the noisy mean gradient. Its state is what a checkpoint holds.
        epsilon: To be spent after all steps.
        clip: C, the norm that the gradient of a sample is cut to.
    """

    def __init__(
        self,
        model: nn.Module,
        inner: torch.optim.Optimizer,
        *,
        samples: int,
        batch_size: int,
        epochs: int,
        epsilon: float,
        delta: float,
        clip: float,
    ) -> None:
        with warnings.catch_warnings(action="ignore"):  # of what torch will do otherwise some day
            from opacus.accountants import create_accountant
            from opacus.grad_sample import GradSampleModule
            from opacus.optimizers import DPOptimizer

        self.delta = delta
        self._samples, self._per_epoch, self._epochs = (
            samples,
            data.steps_per_epoch(samples, batch_size),
            epochs,
        )
        self._rate = min(1.0, batch_size / samples)
        self.noise = noise(epsilon, delta, self._rate, epochs * self._per_epoch)
        self._accountant = create_accountant(ACCOUNTANT)
        self._random = torch.Generator().manual_seed(_entropy())
        parameters = [each for each in model.parameters() if each.requires_grad]
        self._parameters = parameters
        self._hooked = GradSampleModule(
            model
        )  # its hooks stay on the model, which goes on being called itself
        self._optimizer = DPOptimizer(
            inner,
            noise_multiplier=self.noise,
            max_grad_norm=clip,
            expected_batch_size=batch_size,
            generator=torch.Generator(parameters[0].device).manual_seed(_entropy()),
            secure_mode=True,
        )

    def batches(self, first_step: int) -> Iterator[tuple[int, int, torch.Tensor]]:
        """Step (from 1), epoch (from 1) and the samples that are drawn; sometimes none. Shape: [batch]."""
        for step in range(first_step, self._epochs * self._per_epoch):
            drawn_N = torch.rand(self._samples, generator=self._random) < self._rate
            yield step + 1, step // self._per_epoch + 1, torch.nonzero(drawn_N)[:, 0]

    def clear(self) -> None:
        """Forget the gradients of the last step."""
        self._optimizer.zero_grad()

    def nothing_drawn(self) -> None:
        """The gradients of no sample: the step is noise alone."""
        for each in self._parameters:
            each.grad_sample = torch.zeros((0, *each.shape), device=each.device)  # type: ignore[attr-defined]

    def step(self) -> None:
        """Clip, add noise, update, account."""
        self._optimizer.step()
        self._accountant.step(noise_multiplier=self.noise, sample_rate=self._rate)

    @property
    def epsilon(self) -> float:
        """Spent so far."""
        if not self._accountant.history:
            return 0.0
        with warnings.catch_warnings(action="ignore"):
            return float(self._accountant.get_epsilon(delta=self.delta))

    @property
    def spent(self) -> dict[str, float]:
        """What the model may say of itself."""
        return {"epsilon": self.epsilon, "delta": self.delta}

    def finish(self) -> None:
        """The model as it was, without hooks."""
        self._hooked.to_standard_module()

    def save(self, folder: Path) -> None:
        """Write the accountant's state beside a checkpoint."""
        (folder / STATE_FILE).write_text(json.dumps(self._accountant.state_dict()))

    def restore(self, folder: Path) -> None:
        """Go on accounting where the checkpoint stood.

        Raises:
            PrivacyChanged: it was made with other noise or sampling, or without any.
        """
        path = folder / STATE_FILE
        if not path.is_file():
            raise PrivacyChanged("The checkpoint was not made by private training: start a new run.")
        state: dict[str, Any] = json.loads(path.read_text())
        state["history"] = [tuple(each) for each in state["history"]]
        if {(noise, rate) for noise, rate, _ in state["history"]} - {(self.noise, self._rate)}:
            raise PrivacyChanged("The checkpoint was made with other noise or sampling: start a new run.")
        self._accountant.load_state_dict(state)


@cache
def noise(epsilon: float, delta: float, rate: float, steps: int) -> float:
    """σ, with which so many steps at this sampling rate spend ε at δ."""
    with warnings.catch_warnings(action="ignore"):
        from opacus.accountants.utils import get_noise_multiplier

        return float(
            get_noise_multiplier(
                target_epsilon=epsilon,
                target_delta=delta,
                sample_rate=rate,
                steps=steps,
                accountant=ACCOUNTANT,
            )
        )


def _entropy() -> int:
    return int.from_bytes(os.urandom(8)) >> 1
