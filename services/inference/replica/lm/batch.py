"""Sequences that are decoded together, each at its own length: a KV cache that rows join and leave between two steps.

All rows end at the same column; a shorter one is padded on the left, where the mask hides it. Positions are each row's
own, and keys are rotated by them before they are cached, so a row may be moved by columns without a change of meaning.

B rows, H key heads, T columns, D of a head.
"""

from typing import Any, cast

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

COLUMNS_AT_ONCE = 256
"""Room that is made when there is none: a copy of the cache each so many tokens, instead of each."""

Tensor = torch.Tensor


class GrowingLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One layer's keys and values, written in place into a buffer that has room for more."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.set(key_states, value_states)
            return key_states, value_states
        keys, values = self.held
        start, added = keys.shape[-2], key_states.shape[-2]
        if start + added > self._room_keys.shape[-2]:
            self.set(keys, values, added)
        self._room_keys[:, :, start : start + added] = key_states
        self._room_values[:, :, start : start + added] = value_states
        self.keys = self._room_keys[:, :, : start + added]
        self.values = self._room_values[:, :, : start + added]
        return self.held

    @property
    def held(self) -> tuple[Tensor, Tensor]:
        """Keys and values."""
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def set(self, keys_BHTD: Tensor, values_BHTD: Tensor, more: int = 0) -> None:
        """Hold these, with room for more."""
        used = keys_BHTD.shape[-2]
        self._room_keys = _with_room(keys_BHTD, used + more)
        self._room_values = _with_room(values_BHTD, used + more)
        self.keys, self.values = self._room_keys[:, :, :used], self._room_values[:, :, :used]
        self.is_initialized = True


class Batch:
    """The rows under way. Row numbers are positions and change when a row leaves."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._cache: DynamicCache | None = None
        self._lengths: list[int] = []

    def __len__(self) -> int:
        return len(self._lengths)

    @torch.inference_mode()
    def join(self, prompts: list[list[int]]) -> Tensor:
        """Read prompts, each as a new last row. Returns the logits [B, V] of the next token of each."""
        longest = max(map(len, prompts))
        ids_BT = self._tensor([[0] * (longest - len(each)) + each for each in prompts])
        lengths = [len(each) for each in prompts]
        mask_BT = _mask(lengths, longest, ids_BT.device)
        cache = _empty()
        positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
        logits_BV = self._forward(ids_BT, mask_BT, positions_BT, cache)
        self._merge(cache, lengths)
        return logits_BV

    @torch.inference_mode()
    def step(self, tokens: list[int]) -> Tensor:
        """One token more for each row. Returns the logits [B, V] of the next."""
        assert self._cache is not None
        columns = self._cache.get_seq_length() + 1
        positions_B1 = self._tensor([[each] for each in self._lengths])
        self._lengths = [each + 1 for each in self._lengths]
        ids_B1 = self._tensor([[each] for each in tokens])
        mask_BT = _mask(self._lengths, columns, ids_B1.device)
        return self._forward(ids_B1, mask_BT, positions_B1, self._cache)

    @torch.inference_mode()
    def keep(self, rows: list[int]) -> None:
        """Let all other rows go, and the columns that only they had."""
        self._lengths = [self._lengths[row] for row in rows]
        if not rows:
            self._cache = None
            return
        assert self._cache is not None
        idle = self._cache.get_seq_length() - max(self._lengths)
        chosen = torch.tensor(rows, device=self._model.device)
        for layer in _layers(self._cache):
            keys, values = layer.held
            layer.set(keys[chosen, :, idle:], values[chosen, :, idle:])

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
        found = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits_BV: Tensor = found.logits[:, -1].float()
        return logits_BV

    def _merge(self, cache: DynamicCache, lengths: list[int]) -> None:
        if self._cache is not None:
            columns = max(self._cache.get_seq_length(), cache.get_seq_length())
            for ours, theirs in zip(_layers(self._cache), _layers(cache), strict=True):
                keys, values = (
                    torch.cat([_to_columns(each, columns) for each in pair])
                    for pair in zip(ours.held, theirs.held, strict=True)
                )
                ours.set(keys, values)
        else:
            self._cache = cache
        self._lengths += lengths

    def _tensor(self, values: list[list[int]]) -> Tensor:
        return torch.tensor(values, device=self._model.device)


def _empty() -> DynamicCache:
    cache = DynamicCache()
    cache.layer_class_to_replicate = GrowingLayer
    return cache


def _layers(cache: DynamicCache) -> list[GrowingLayer]:
    return cast(list[GrowingLayer], cache.layers)


def _mask(lengths: list[int], columns: int, device: Any) -> Tensor:
    starts_B1 = torch.tensor([[columns - each] for each in lengths], device=device)
    return (torch.arange(columns, device=device) >= starts_B1).long()


def _with_room(tensor_BHTD: Tensor, columns: int) -> Tensor:
    batch, heads, used, size = tensor_BHTD.shape
    room = -(-(columns + 1) // COLUMNS_AT_ONCE) * COLUMNS_AT_ONCE
    made = tensor_BHTD.new_empty((batch, heads, room, size))
    made[:, :, :used] = tensor_BHTD
    return made


def _to_columns(tensor_BHTD: Tensor, columns: int) -> Tensor:
    missing = columns - tensor_BHTD.shape[-2]
    return torch.nn.functional.pad(tensor_BHTD, (0, 0, missing, 0)) if missing else tensor_BHTD
