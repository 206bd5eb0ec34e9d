"""Texts to vectors: the mean of an encoder's last layer over the tokens, of length 1.

Source: Reimers and Gurevych, Sentence-BERT, for mean pooling; it is what the MiniLM family was trained with.
"""

import threading
from typing import Any

import torch

TOKENS_MAX = 512
"""Of a text, where the model does not say. What is longer is cut, as the library that trained these models does."""


class Embedder:
    """An encoder."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._longest = min(int(getattr(model.config, "max_position_embeddings", TOKENS_MAX)), TOKENS_MAX)
        self._one_at_a_time = threading.Lock()

    @torch.inference_mode()
    def embed(self, texts: list[str]) -> tuple[list[list[float]], list[int]]:
        """A vector of each text, and how many tokens it had."""
        coded = self._tokenizer(
            texts, padding=True, truncation=True, max_length=self._longest, return_tensors="pt"
        ).to(self._model.device)
        if not coded["input_ids"].numel():  # nothing but empty texts, to a tokenizer without marks of its own
            return [[0.0] * self._model.config.hidden_size for _ in texts], [0] * len(texts)
        with self._one_at_a_time:
            hidden_BTD = self._model(**coded).last_hidden_state.float()
        mask_BT1 = coded["attention_mask"].unsqueeze(-1)
        mean_BD = (hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1).clamp(min=1)
        vectors = torch.nn.functional.normalize(mean_BD, dim=1).cpu().tolist()
        return vectors, coded["attention_mask"].sum(1).tolist()
