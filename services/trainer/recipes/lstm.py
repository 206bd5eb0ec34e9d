"""A text classifier that reads word by word, both ways: a long short-term memory (Hochreiter and Schmidhuber 1997).

For word embedding x, state h and memory c, with σ the logistic function and ⊙ by element:
    i, f, o = σ(xWᵢ + hUᵢ + bᵢ), σ(xW_f + hU_f + b_f), σ(xWₒ + hUₒ + bₒ)
    c ← f ⊙ c + i ⊙ tanh(xW_c + hU_c + b_c);   h ← o ⊙ tanh(c)
The way back begins with the text's last word, so that what is behind a short one changes nothing. The text is the largest and
the mean of each element of h over its words. Loss: cross-entropy.

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
        self.onward = nn.LSTM(width, width, batch_first=True)
        self.back = nn.LSTM(width, width, batch_first=True)
        self.dropout = nn.Dropout(settings["dropout"])
        self.head = nn.Linear(4 * width, classes)

    def forward(self, words_BT: torch.Tensor) -> torch.Tensor:
        real_BT1 = (words_BT != texts.NOTHING).unsqueeze(2)
        x_BTD = self.dropout(self.embedding(words_BT))
        turned_BTD = _turned(x_BTD, real_BT1)
        states_BTH = torch.cat([self.onward(x_BTD)[0], _turned(self.back(turned_BTD)[0], real_BT1)], dim=2)
        largest_BH = states_BTH.masked_fill(~real_BT1, -1.0).amax(dim=1)
        mean_BH = (states_BTH * real_BT1).sum(dim=1) / real_BT1.sum(dim=1).clamp(min=1)
        logits_BC: torch.Tensor = self.head(self.dropout(torch.cat([largest_BH, mean_BH], dim=1)))
        return logits_BC


def _turned(x_BTD: torch.Tensor, real_BT1: torch.Tensor) -> torch.Tensor:
    """Every text's words from its last to its first; what is behind them stays."""
    place_1T1 = torch.arange(x_BTD.shape[1], device=x_BTD.device)[None, :, None]
    from_BT1 = torch.where(real_BT1, real_BT1.sum(dim=1, keepdim=True) - 1 - place_1T1, place_1T1)
    return x_BTD.gather(1, from_BT1.expand_as(x_BTD))
