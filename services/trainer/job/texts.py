"""Texts with labels, and the way that recipes train a network on them.

A version holds `train` and `test`, or one table of which a fifth is held out (see `tables`), with a column `text` and a
column `label`. A text is its first T words in lower case, by their number in the vocabulary: 0 is nothing, 1 any other.

Shapes: N texts, B batch, T words, V vocabulary, C classes.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from aios.errors import InvalidArgument
from aios.train import Run
from services.trainer.job import evaluate, loop, result, tables

NOTHING, OTHER = 0, 1
EVALUATE_BATCH = 500
_WORD = re.compile(r"\w+|[^\w\s]")

Make = Callable[[int, int, Mapping[str, Any]], nn.Module]
"""A network from the size of the vocabulary, the number of classes and the run's settings."""


def train(run: Run, title: str, make: Make) -> None:
    """Train what `make` gives, evaluate, hand over."""
    settings = loop.prepare(run)
    with run.phase("load data"):
        train_table, test_table = tables.parts(run.files(), run.seed)
        texts, labels = _columns(train_table)
        held_texts, held_labels = _columns(test_table)
        classes = sorted({*labels, *held_labels})
        words = vocabulary(texts, settings["vocabulary"])
        x_NT, held_NT = (encode(each, words, settings["length"]) for each in (texts, held_texts))
        index = {name: number for number, name in enumerate(classes)}
        y_N, held_N = (torch.tensor([index[each] for each in some]) for some in (labels, held_labels))
    device = loop.device()
    model = make(len(words) + 2, len(classes), settings).to(device)

    def scores(texts_NT: torch.Tensor) -> torch.Tensor:
        parts = [model(_trimmed(part).to(device)).cpu() for part in texts_NT.split(EVALUATE_BATCH)]
        return torch.cat(parts)

    loop.fit(
        run,
        model,
        len(x_NT),
        lambda chosen_B: functional.cross_entropy(
            model(_trimmed(x_NT[chosen_B]).to(device)), y_N[chosen_B].to(device)
        ),
        lambda: {"test_accuracy": float((scores(held_NT).argmax(1) == held_N).float().mean())},
    )
    with torch.no_grad():
        probabilities = scores(held_NT).softmax(dim=1).numpy()
    evaluation = evaluate.classification(f"{title}, {run.name}", probabilities, held_N.numpy(), classes)
    result.keep(
        run,
        nn.Sequential(model, nn.Softmax(dim=1)).cpu().eval(),
        held_NT[:4],
        evaluation,
        input_name="words",
        output_name="probabilities",
        labels=classes,
        files={"vocabulary.json": {"words": words, "length": settings["length"], "pattern": _WORD.pattern}},
    )


def vocabulary(texts: Iterable[str], size: int) -> list[str]:
    """The most frequent words, most frequent first; word i is number i + 2."""
    counts = Counter(word for text in texts for word in _WORD.findall(text.lower()))
    return [word for word, _ in sorted(counts.items(), key=lambda each: (-each[1], each[0]))[:size]]


def encode(texts: Sequence[str], words: Sequence[str], length: int) -> torch.Tensor:
    """Texts as word numbers, with nothing behind short ones. Shape: [N, length]."""
    number = {word: index + 2 for index, word in enumerate(words)}
    coded = np.full((len(texts), length), NOTHING, dtype=np.int64)
    for row, text in enumerate(texts):
        found = [number.get(word, OTHER) for word in _WORD.findall(text.lower())[:length]] or [OTHER]
        coded[row, : len(found)] = found
    return torch.from_numpy(coded)


def _trimmed(texts_BT: torch.Tensor) -> torch.Tensor:
    """Without the columns in which no text has a word."""
    used = (texts_BT != NOTHING).any(dim=0).nonzero()
    return texts_BT[:, : int(used.max()) + 1] if len(used) else texts_BT[:, :1]


def _columns(table: Any) -> tuple[list[str], list[str]]:
    missing = {"text", "label"} - set(table.column_names)
    if missing:
        raise InvalidArgument.of(
            "dataset", f"needs columns text and label; it has {', '.join(table.column_names)}"
        )
    return (
        [str(text or "") for text in table["text"].to_pylist()],
        [str(label) for label in table["label"].to_pylist()],
    )
