"""Original and variant side by side, and whether the variant may be promoted.

Both are measured as they are served: perplexity by what was read back from the directory that is registered, time, memory
and continuations through Triton. Where the variant was trained, the original is trained as long, and perplexity is held
against the better of the two.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aios.train import light
from services.trainer.job.evaluate import Figure
from services.trainer.optimize.lm import texts
from services.trainer.optimize.lm.texts import Array, Texts
from services.trainer.optimize.serving import Served, measured

MEASURE = "services.inference.replica.measure_lm"
BATCHES = (1, 8)
PROMPTS, TOKENS = 8, 32
AGREEMENT_MIN = 0.75
"""Of continuations through Triton and here, word for word: where two tokens are as likely, the order of additions decides,
and everything after it differs."""
WHERE = "Triton and the process that holds a replica's weights, models asked in turns, greedy"


@dataclass(frozen=True)
class Side:
    """One model."""

    bytes: int
    """Of all its files."""
    parameters: int
    losses_N: Array
    continuations: Sequence[str]

    @classmethod
    def of(cls, folder: Path, given: Texts) -> "Side":
        """Read a directory, and ask what was read."""
        module = light.load(folder)
        return cls(
            bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
            parameters=sum(each.numel() for each in module.parameters()),
            losses_N=texts.losses(module, given.test_NT),
            continuations=[continued(module, given.tokenizer, prompt) for prompt in given.prompts],
        )

    @property
    def perplexity(self) -> Figure:
        """On the held-out blocks."""
        return texts.perplexity(self.losses_N)


@dataclass(frozen=True)
class Verdict:
    """Both sides, and what was missed."""

    original: Side
    variant: Side
    tuned: Side | None
    """The original after as much training, where the variant was trained."""
    served: Mapping[str, Served]
    """By `original` and `variant`; answers are continuations."""
    limits: Mapping[str, float]
    missed: Sequence[str]

    @property
    def passed(self) -> bool:
        """It kept every limit."""
        return not self.missed

    @property
    def ratio(self) -> Figure:
        """The variant's perplexity over that of the better original."""
        sides = [each for each in (self.original, self.tuned) if each is not None]
        reference = min(sides, key=lambda each: float(each.losses_N.mean()))
        return texts.ratio(self.variant.losses_N, reference.losses_N)

    @property
    def smaller(self) -> float:
        """Times."""
        return self.original.bytes / self.variant.bytes

    @property
    def batch(self) -> int:
        """The measured number of prompts at once that is nearest to that of the limits."""
        return min(self.served["variant"].batches, key=lambda each: abs(each - self.limits["batch"]))

    def times_as_long(self, batch: int) -> float:
        """The variant's latency over the original's."""
        return self.served["variant"].times(self.served["original"], batch)

    @property
    def agreement(self) -> float:
        """Share of prompts that the variant continues word for word through Triton as here."""
        pairs = zip(self.served["variant"].answers, self.variant.continuations, strict=True)
        return float(np.mean([through == here for through, here in pairs]))

    @property
    def metrics(self) -> dict[str, float]:
        """What the registry keeps of it."""
        costs = self.served["variant"].batches
        return {
            "perplexity": self.variant.perplexity.value,
            "perplexity_ratio": self.ratio.value,
            "smaller": self.smaller,
            "times_as_long": self.times_as_long(self.batch),
            "tokens_per_second": float(costs[self.batch]["tokens_per_second"]),
            "agreement": self.agreement,
        }

    def told(self) -> dict[str, Any]:
        """As JSON."""
        sides = {"original": self.original, "variant": self.variant, "tuned_original": self.tuned}
        return {
            "passed": self.passed,
            "missed": list(self.missed),
            "limits": dict(self.limits),
            "perplexity_ratio": asdict(self.ratio),
            "smaller": self.smaller,
            "agreement": self.agreement,
            "times_as_long": {str(each): self.times_as_long(each) for each in BATCHES},
            **{
                name: {
                    "bytes": side.bytes,
                    "parameters": side.parameters,
                    "perplexity": asdict(side.perplexity),
                    "continuations": list(side.continuations),
                    "served": self.served[name].told() if name in self.served else None,
                }
                for name, side in sides.items()
                if side is not None
            },
        }


def judge(
    original: Side,
    variant: Side,
    tuned: Side | None,
    served: Mapping[str, Served],
    limits: Mapping[str, float],
) -> Verdict:
    """Hold a variant against the limits."""
    free = Verdict(original, variant, tuned, served, limits, ())
    batch, ratio = free.batch, free.ratio.value
    slower, p95 = free.times_as_long(batch), float(served["variant"].batches[batch]["p95_ms"])
    missed = []
    if ratio > limits["perplexity"]:
        missed.append(f"has {ratio:.3f} times the perplexity, {limits['perplexity']:g} are allowed")
    if free.smaller < limits["smaller"]:
        missed.append(f"is {free.smaller:.2f} times smaller, {limits['smaller']:g} are wanted")
    if slower > limits["slower"]:
        missed.append(
            f"takes {slower:.2f} times as long for {batch} at once, {limits['slower']:g} are allowed"
        )
    if limits["p95_ms"] and p95 > limits["p95_ms"]:
        missed.append(f"has a p95 of {p95:.0f} ms for {batch} at once, {limits['p95_ms']:g} are allowed")
    if free.agreement < AGREEMENT_MIN:
        missed.append("continues otherwise through Triton than it did when it was made")
    return Verdict(original, variant, tuned, served, limits, tuple(missed))


def measure(models: Mapping[str, Path], prompts: Sequence[str], threads: int) -> dict[str, Served]:
    """Serve models side by side and ask each.

    Raises:
        CannotServe: one could not be served.
    """
    request = {
        "models": {name: str(folder) for name, folder in models.items()},
        "prompts": list(prompts),
        "tokens": TOKENS,
        "batches": list(BATCHES),
        "threads": threads,
    }
    return {
        name: Served.of(each, np.array(each["texts"], dtype=object))
        for name, each in measured(MEASURE, request).items()
    }


@torch.no_grad()
def continued(module: Any, tokenizer: Any, prompt: str) -> str:
    """The likeliest continuation."""
    coded = tokenizer(prompt, return_tensors="pt")
    given = {key: coded[key] for key in ("input_ids", "attention_mask")}
    made_1T = module.generate(
        **given, max_new_tokens=TOKENS, do_sample=False, pad_token_id=tokenizer.eos_token_id
    )
    return str(tokenizer.decode(made_1T[0, given["input_ids"].shape[1] :], skip_special_tokens=True))
