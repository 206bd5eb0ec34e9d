"""A text classifier in which every word looks at every other: a transformer encoder (Vaswani et al. 2017).

A block, with its input normalised first (Xiong et al. 2020), for each of its heads with q, k, v = xW_q, xW_k, xW_v:
    x ← x + softmax(q kᵀ / √d) v Wₒ;   x ← x + max(0, xW₁ + b₁)W₂ + b₂
Positions are learnt and added to the words. The text is the mean of x over its words. Loss: cross-entropy.

Dataset and model: see `texts`; words INT64 [B, T] → probabilities FP32 [B, C].
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from aios.train import Run
from services.trainer.job import texts


def train(run: Run) -> None:
    """Train, evaluate, hand over."""
    texts.train(run, "Transformer", Network)


class Network(nn.Module):
    """Words and positions, blocks, the mean over words, and the last layer."""

    def __init__(self, words: int, classes: int, settings: Mapping[str, Any]) -> None:
        super().__init__()
        width = settings["heads"] * max(1, settings["width"] // settings["heads"])
        self.words = nn.Embedding(words, width)
        self.positions = nn.Embedding(settings["length"], width)
        self.dropout = nn.Dropout(settings["dropout"])
        self.blocks = nn.ModuleList(
            Block(width, settings["heads"], settings["dropout"]) for _ in range(settings["layers"])
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, words_BT: torch.Tensor) -> torch.Tensor:
        real_BT = words_BT != texts.NOTHING
        x_BTD = self.words(words_BT) + self.positions.weight[: words_BT.shape[1]]
        x_BTD = self.dropout(x_BTD)
        for block in self.blocks:
            x_BTD = block(x_BTD, real_BT)
        kept_BT1 = real_BT.unsqueeze(2)
        mean_BD = (self.norm(x_BTD) * kept_BT1).sum(dim=1) / kept_BT1.sum(dim=1).clamp(min=1)
        logits_BC: torch.Tensor = self.head(self.dropout(mean_BD))
        return logits_BC


class Block(nn.Module):
    """Attention, then two layers on each word by itself."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_layers = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.layers = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: torch.Tensor, real_BT: torch.Tensor) -> torch.Tensor:
        x_BTD = x_BTD + self.dropout(self._attend(self.before_attention(x_BTD), real_BT))
        out_BTD: torch.Tensor = x_BTD + self.dropout(self.layers(self.before_layers(x_BTD)))
        return out_BTD

    def _attend(self, x_BTD: torch.Tensor, real_BT: torch.Tensor) -> torch.Tensor:
        size, length, width = x_BTD.shape
        parts = self.qkv(x_BTD).view(size, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q_BHTd, k_BHTd, v_BHTd = parts[0], parts[1], parts[2]
        mixed_BHTd = functional.scaled_dot_product_attention(
            q_BHTd, k_BHTd, v_BHTd, attn_mask=real_BT[:, None, None, :]
        )
        out: torch.Tensor = self.out(mixed_BHTd.transpose(1, 2).reshape(size, length, width))
        return out
