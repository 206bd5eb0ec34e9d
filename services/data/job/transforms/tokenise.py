"""A text as numbers: of its words, by the commonest ones of the training part (`vocabulary.json`), or of its bytes."""

import re
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from aios.errors import InvalidArgument
from services.data.job import charts
from services.data.job.columns import Kind, kind_of, texts
from services.data.job.engine import Engine, Given, Told, over
from services.data.job.parts import with_column
from services.data.job.work import Result, Work

NOTHING, UNKNOWN, FIRST = 0, 1, 2
"""Fills up a short text; stands for a word that the vocabulary lacks; the first number of a word or byte."""
TOKENS = "tokens"
_WORD = re.compile(r"\w+|[^\w\s]")


def run(work: Work) -> Result:
    """Put a column of numbers of one length in the place of a text."""
    column, length = work.require("column", work.parameters["column"]), int(work.parameters["length"])
    model = work.source.parts[work.training]
    if kind_of(model, column) is not Kind.TEXT:
        raise InvalidArgument.of("parameters.column", f"{column!r} holds no texts")
    by_words = work.parameters["method"] == "words"
    size = int(work.parameters["vocabulary"])
    vocabulary = _vocabulary(work.engine, model.select([column]), size) if by_words else {}
    given = {"by_words": by_words, "length": length, "vocabulary": vocabulary}
    parts, cut, unknown, total = {}, 0, 0, 0
    for name, table in work.source.parts.items():
        made = over(work.engine, numbered, table.select([column]), **given)
        cut, unknown, total = (
            cut + made.total("cut"),
            unknown + made.total("unknown"),
            total + made.total("total"),
        )
        field = made.table.schema.field(TOKENS)
        parts[name] = with_column(table, TOKENS, made.table[TOKENS], field).drop_columns([column])
    summary = {
        "vocabulary": len(vocabulary) + FIRST if by_words else 256 + FIRST,
        "length": length,
        "cut": cut,
        "unknown_share": unknown / max(1, total),
    }
    files = {"vocabulary.json": vocabulary} if by_words else {}
    sections = [charts.table(["", ""], list(summary.items()))]
    return Result(f"Tokens of {column}", summary, sections, parts, files=files)


def counted(piece: "pa.Table", given: Given) -> tuple["pa.Table", Told]:
    """A step: how often each word is in the texts of the one column."""
    values = texts(piece, piece.column_names[0])
    return piece.slice(0, 0), Counter(word for text in values for word in _WORD.findall((text or "").lower()))


def numbered(piece: "pa.Table", given: Given) -> tuple["pa.Table", Told]:
    """A step: the texts of the one column as rows of numbers."""
    length = given["length"]
    made = np.zeros((piece.num_rows, length), dtype=np.int32)
    cut = unknown = total = 0
    for row, text in enumerate(texts(piece, piece.column_names[0])):
        numbers = _numbers(text or "", given["vocabulary"], by_words=given["by_words"])
        cut += len(numbers) > length
        total += len(numbers)
        unknown += numbers.count(UNKNOWN)
        made[row, : min(length, len(numbers))] = numbers[:length]
    return with_column(pa.table({}), TOKENS, made), {"cut": cut, "unknown": unknown, "total": total}


def _vocabulary(engine: Engine, table: "pa.Table", size: int) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for _, told in over(engine, counted, table).told:
        counts.update(told)
    common = sorted(counts.items(), key=lambda each: (-each[1], each[0]))[: size - FIRST]
    return {word: number for number, (word, _) in enumerate(common, FIRST)}


def _numbers(text: str, vocabulary: Mapping[str, int], *, by_words: bool) -> list[int]:
    if by_words:
        return [vocabulary.get(word, UNKNOWN) for word in _WORD.findall(text.lower())]
    return [each + FIRST for each in text.encode(errors="replace")]
