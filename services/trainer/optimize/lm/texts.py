"""What a language model is judged and tuned on: texts end to end, in blocks of so many tokens.

Perplexity is exp(−mean log p(token | those before it in its block)). Its 95% interval is Student's over the blocks' means;
that of a ratio of two perplexities is over the blocks' differences, so that what makes a block hard for both cancels out.

Shapes: N blocks, T tokens, B batch, V vocabulary.
"""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch.nn import functional
from transformers import AutoTokenizer

from services.trainer.job import tables
from services.trainer.job.evaluate import Figure
from services.trainer.optimize.task import NotOptimizable
from services.trainer.recipes import lora

BATCH = 8
CHOSEN_ON = 16
"""Training blocks that are set aside: what is chosen along the way is chosen there."""
Array = NDArray[Any]


@dataclass(frozen=True)
class Texts:
    """Blocks of tokens, and how a text becomes them."""

    tokenizer: Any
    train_NT: torch.Tensor
    validation_NT: torch.Tensor
    test_NT: torch.Tensor
    prompts: tuple[str, ...]
    """The beginnings of some held-out texts."""

    def calibration(self, blocks: int) -> torch.Tensor:
        """Some training blocks, always the same."""
        return self.train_NT[:blocks]


def load(model: Path, data: Path, seed: int, *, block: int, blocks: int, prompts: int) -> Texts:
    """The texts of a dataset's column `text`, as a model reads them.

    Raises:
        NotOptimizable: there are too few.
    """
    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True, trust_remote_code=False)
    learnt, held = (lora.texts(part) for part in tables.parts(data, seed))
    order = np.random.default_rng(seed).permutation(len(learnt))
    train_NT = lora.packed(tokenizer, [learnt[index] for index in order], block)
    test_NT = lora.packed(tokenizer, held, block)[:blocks]
    if len(train_NT) <= 2 * CHOSEN_ON or len(test_NT) < 2:
        raise NotOptimizable(
            f"The texts make {len(train_NT)} blocks of {block} tokens to learn from and {len(test_NT)} to be judged "
            f"on; more than {2 * CHOSEN_ON} and 2 are needed."
        )
    starts = tuple(" ".join(text.split()[:8]) for text in held[:prompts])
    return Texts(tokenizer, train_NT[CHOSEN_ON:], train_NT[:CHOSEN_ON], test_NT, starts)


@torch.no_grad()
def losses(model: Any, blocks_NT: torch.Tensor) -> Array:
    """−log p of each block, the mean over its tokens but the first. Shape: [N]."""
    found = []
    for part_BT in blocks_NT.split(BATCH):
        logits_BTV = model(input_ids=part_BT).logits[:, :-1]
        loss_BT = functional.cross_entropy(logits_BTV.transpose(1, 2), part_BT[:, 1:], reduction="none")
        found.append(loss_BT.mean(1).double().numpy())
    return np.concatenate(found)


def perplexity(losses_N: Array) -> Figure:
    """With its interval."""
    return _powers(losses_N)


def ratio(losses_N: Array, others_N: Array) -> Figure:
    """How many times the perplexity of another model on the same blocks, with its interval."""
    return _powers(losses_N - others_N)


def digest(blocks_NT: torch.Tensor) -> str:
    """What identifies a calibration set: sha256 of its tokens as little-endian 32-bit integers."""
    return hashlib.sha256(blocks_NT.numpy().astype("<i4").tobytes()).hexdigest()


def _powers(values_N: Array) -> Figure:
    mean, count = float(values_N.mean()), len(values_N)
    half = float(stats.t.ppf(0.975, count - 1) * values_N.std(ddof=1) / math.sqrt(count))
    return Figure(math.exp(mean), math.exp(mean - half), math.exp(mean + half))
