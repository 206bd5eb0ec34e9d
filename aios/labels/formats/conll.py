"""CoNLL: a token and its tag on each line, an empty line after each text. Source: the CoNLL-2003 shared task, BIO tags.

Comments say which item a text is, and how it was written, so that it comes back to the character. Without them, the
tokens of a text are joined by spaces. Tags of BIO, IOB and BIOES are read. Spans that overlap, or begin or end with
white space, cannot be said.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from aios.labels.formats.finding import Finder
from aios.labels.formats.reading import RECORDS_MAX, at, count, json_of, single, text, text_of, wrong
from aios.labels.records import Labelled, Record
from aios.labels.values import Label, Span

_TOKEN = re.compile(r"\w+|[^\w\s]")
_COMMENT = re.compile(r"# (path|row|text) = (.*)", re.DOTALL)


def write(labelled: Labelled) -> Mapping[str, bytes]:
    """`labels.conll`: the texts that have a final label."""
    parts = [
        "\n".join(_lines(record, record.label.spans)) + "\n\n"
        for record in labelled.records
        if record.label is not None
    ]
    return {"labels.conll": "".join(parts).encode()}


def read(files: Mapping[str, bytes], known: Labelled) -> Labelled:
    """Texts with their spans."""
    name, content = single(files, "")
    finder = Finder(known)
    records: list[Record] = []
    notes: dict[str, object] = {}
    tokens: list[tuple[str, str]] = []
    lines = [*text_of(content, name).split("\n"), ""]
    for row, line in enumerate(lines, 1):
        place = f"{name}, line {row}"
        line = line.removesuffix("\r")
        with at(place):
            if comment := _COMMENT.fullmatch(line):
                notes[comment[1]] = json_of(comment[2], place)
            elif line.startswith(("# ", "-DOCSTART-")):
                continue
            elif line:
                columns = line.split("\t") if "\t" in line else line.split(" ")
                if len(columns) < 2 or not columns[0]:
                    raise ValueError("must be a token and a tag")
                tokens.append((columns[0], columns[-1]))
            elif tokens or notes:
                records.append(_record(finder, notes, tokens))
                notes, tokens = {}, []
        if len(records) > RECORDS_MAX:
            raise wrong(place, f"more than {RECORDS_MAX} texts")
    return replace(known, records=records)


def _lines(record: Record, spans: Sequence[Span]) -> Iterator[str]:
    whole = record.data.get("text")
    if not isinstance(whole, str):
        raise wrong(record.path, "has no `text`")
    yield f"# path = {json.dumps(record.path)}"
    if record.row is not None:
        yield f"# row = {record.row}"
    yield f"# text = {json.dumps(whole)}"
    place = record.path if record.row is None else f"{record.path}, row {record.row}"
    ordered = sorted(spans)
    for before, after in pairwise(ordered):
        if after.start < before.end:
            raise wrong(place, "spans overlap, which CoNLL cannot say")
    for span in ordered:
        if whole[span.start].isspace() or whole[span.end - 1].isspace():
            raise wrong(place, "a span begins or ends with white space, which CoNLL cannot say")
    for start, end in _tokens(whole, {edge for span in spans for edge in (span.start, span.end)}):
        inside = next((span for span in ordered if span.start <= start < span.end), None)
        tag = "O" if inside is None else f"{'B' if inside.start == start else 'I'}-{inside.label}"
        yield f"{whole[start:end]}\t{tag}"


def _tokens(whole: str, edges: set[int]) -> Iterator[tuple[int, int]]:
    """Words and signs, cut where a span begins or ends."""
    for match in _TOKEN.finditer(whole):
        cuts = sorted({match.start(), match.end(), *(e for e in edges if match.start() < e < match.end())})
        yield from pairwise(cuts)


def _record(finder: Finder, notes: Mapping[str, object], tokens: Sequence[tuple[str, str]]) -> Record:
    whole = notes.get("text", " ".join(token for token, _ in tokens))
    if not isinstance(whole, str):
        raise ValueError("text must be a text")
    if "path" in notes:
        row = count(notes["row"], "row", 2**62) if "row" in notes else None
        record = finder.row(text(notes["path"], "path"), row)
    else:
        found = finder.text(whole)
        if found is None:
            raise ValueError(f"no item, or several, show the text {whole[:60]!r}")
        record = found
    spans: list[Span] = []
    at_char, ended = 0, True
    for token, tag in tokens:
        start = whole.find(token, at_char)
        if start < 0 or whole[at_char:start].strip():
            raise ValueError(f"the token {token!r} does not follow in the text")
        at_char = start + len(token)
        way, _, label = tag.partition("-")
        if tag == "O":
            continue
        if way not in ("B", "I", "E", "S", "L", "U") or not label:
            raise ValueError(f"{tag!r} is no tag")
        last = spans[-1] if spans else None
        # A span goes on where nothing but white space lies between.
        near = last is not None and last.label == label and not whole[last.end : start].strip()
        if last is not None and near and not ended and way in ("I", "E", "L"):
            spans[-1] = replace(last, end=at_char)
        else:
            spans.append(Span(start, at_char, label))
        ended = way in ("E", "L", "S", "U")
    data = record.data if record.data else {"text": whole}
    return replace(record, data=data, label=Label(spans=tuple(sorted(spans))))
