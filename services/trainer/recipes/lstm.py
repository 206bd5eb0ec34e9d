"""A text classifier that reads word by word, both ways: a long short-term memory (Hochreiter and Schmidhuber 1997).

For word embedding x, state h and memory c, with σ the logistic function and ⊙ by element:
    i, f, o = σ(xWᵢ + hUᵢ + bᵢ), σ(xW_f + hU_f + b_f), σ(xWₒ + hUₒ + bₒ)
    c ← f ⊙ c + i ⊙ tanh(xW_c + hU_c + b_c);   h ← o ⊙ tanh(c)
The text is the largest and the mean of each element of h over its words. Loss: cross-entropy.

Dataset and model: see `texts`; words INT64 [B, T] → probabilities FP32 [B, C].
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from aios.train import Run
from services.trainer.job import texts


def train(run: Run) -> None:
    """Train, evaluate, hand over."""
    texts.train(run, "LSTM", Network)


class Network(nn.Module):
    """Embedding, one layer each way, pooling, and the last layer."""

    def __init__(self, words: int, classes: int, settings: Mapping[str, Any]) -> None:
        super().__init__()
        width = settings["width"]
        self.embedding = nn.Embedding(words, width, padding_idx=texts.NOTHING)
        self.memory = nn.LSTM(width, width, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(settings["dropout"])
        self.head = nn.Linear(4 * width, classes)

    def forward(self, words_BT: torch.Tensor) -> torch.Tensor:
        real_BT1 = (words_BT != texts.NOTHING).unsqueeze(2)
        states_BTH, _ = self.memory(self.dropout(self.embedding(words_BT)))
        largest_BH = states_BTH.masked_fill(~real_BT1, -1.0).amax(dim=1)
        mean_BH = (states_BTH * real_BT1).sum(dim=1) / real_BT1.sum(dim=1).clamp(min=1)
        logits_BC: torch.Tensor = self.head(self.dropout(torch.cat([largest_BH, mean_BH], dim=1)))
        return logits_BC
