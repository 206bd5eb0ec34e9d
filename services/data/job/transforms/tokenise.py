"""A text as numbers: of its words, by the commonest ones of the training part (`vocabulary.json`), or of its bytes."""

import re
from collections import Counter
from collections.abc import Mapping

import numpy as np

from aios.errors import InvalidArgument
from services.data.job import charts
from services.data.job.columns import Kind, kind_of, texts
from services.data.job.parts import with_column
from services.data.job.work import Result, Work

NOTHING, UNKNOWN, FIRST = 0, 1, 2
"""Fills up a short text; stands for a word that the vocabulary lacks; the first number of a word or byte."""
_WORD = re.compile(r"\w+|[^\w\s]")


def run(work: Work) -> Result:
    """Put a column of numbers of one length in the place of a text."""
    column, length = work.require("column", work.parameters["column"]), int(work.parameters["length"])
    model = work.source.parts[work.training]
    if kind_of(model, column) is not Kind.TEXT:
        raise InvalidArgument.of("parameters.column", f"{column!r} holds no texts")
    by_words = work.parameters["method"] == "words"
    vocabulary = _vocabulary(texts(model, column), int(work.parameters["vocabulary"])) if by_words else {}
    parts, cut, unknown, total = {}, 0, 0, 0
    for name, table in work.source.parts.items():
        made = np.zeros((table.num_rows, length), dtype=np.int32)
        for row, text in enumerate(texts(table, column)):
            numbers = _numbers(text or "", vocabulary, by_words=by_words)
            cut += len(numbers) > length
            total += len(numbers)
            unknown += numbers.count(UNKNOWN)
            made[row, : min(length, len(numbers))] = numbers[:length]
        parts[name] = with_column(table, "tokens", made).drop_columns([column])
    summary = {
        "vocabulary": len(vocabulary) + FIRST if by_words else 256 + FIRST,
        "length": length,
        "cut": cut,
        "unknown_share": unknown / max(1, total),
    }
    files = {"vocabulary.json": vocabulary} if by_words else {}
    sections = [charts.table(["", ""], list(summary.items()))]
    return Result(f"Tokens of {column}", summary, sections, parts, files=files)


def _vocabulary(values: list[str | None], size: int) -> dict[str, int]:
    counts = Counter(word for text in values for word in _WORD.findall((text or "").lower()))
    common = sorted(counts.items(), key=lambda each: (-each[1], each[0]))[: size - FIRST]
    return {word: number for number, (word, _) in enumerate(common, FIRST)}


def _numbers(text: str, vocabulary: Mapping[str, int], *, by_words: bool) -> list[int]:
    if by_words:
        return [vocabulary.get(word, UNKNOWN) for word in _WORD.findall(text.lower())]
    return [each + FIRST for each in text.encode(errors="replace")]
