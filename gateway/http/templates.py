"""Path templates of `google.api.http` rules. Pure.

    Template = "/" Segments [ ":" LITERAL ]
    Segment  = "*" | "**" | LITERAL | "{" FieldPath [ "=" Segments ] "}"

A literal colon in the last segment always starts a verb, so `jobs/j:logs` never reads as a job named `j:logs`.
Source: google/api/http.proto.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote, unquote

_PIECE = re.compile(r"\{(?P<field>[a-z_][\w.]*)(?:=(?P<inner>[^{}]+))?\}|(?P<plain>[^{}/]+)")
_ENCODED_SLASH = re.compile(r"%(2[Ff])")


@dataclass(frozen=True)
class Segment:
    """One step of a path: a literal, `*` or `**`, and the field that it is part of, if any."""

    text: str
    field: str | None = None

    @property
    def is_literal(self) -> bool:
        return self.text not in ("*", "**")


@dataclass(frozen=True)
class PathTemplate:
    """A compiled template: matches raw paths and builds them."""

    text: str
    segments: tuple[Segment, ...]
    verb: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Compile.

        Raises:
            ValueError: for a template outside the grammar, saying why.
        """
        path, verb = split_verb(text)
        if not path.startswith("/") or path == "/":
            raise ValueError(f"{text}: a template starts with / and names something")
        segments: list[Segment] = []
        position = 1
        while position < len(path):
            piece = _PIECE.match(path, position)
            end = piece.end() if piece else position
            if piece is None or (end < len(path) and path[end] != "/") or path[end:] == "/":
                raise ValueError(f"{text}: cannot be read from {path[position:]!r} on")
            inner = piece["plain"] or piece["inner"] or "*"
            segments.extend(Segment(part, piece["field"]) for part in inner.split("/"))
            position = end + 1
        fields = [piece["field"] for piece in _PIECE.finditer(path) if piece["field"]]
        if len(set(fields)) != len(fields):
            raise ValueError(f"{text}: binds a field twice")
        if any(("*" in s.text and s.is_literal) or not s.text for s in segments):
            raise ValueError(f"{text}: `*` and `**` stand alone in their segment, and no segment is empty")
        if any(s.text == "**" for s in segments[:-1]):
            raise ValueError(f"{text}: `**` must come last")
        return cls(text, tuple(segments), verb)

    @property
    def fields(self) -> tuple[str, ...]:
        """The field paths that the path gives a value to."""
        return tuple(dict.fromkeys(s.field for s in self.segments if s.field))

    @property
    def rank(self) -> tuple[tuple[int, ...], str]:
        """Sorts templates so that the first match is the most literal one."""
        return tuple(
            ("*", "**").index(s.text) + 1 if not s.is_literal else 0 for s in self.segments
        ), self.text

    def match(self, path: str) -> dict[str, str] | None:
        """The fields' values if `path`, still percent-encoded, is of this form.

        A field of one segment is decoded whole; in one of several, %2F stays as it is, so that a name's structure
        cannot be forged. Bytes that are not UTF-8 match nothing.
        """
        path, verb = split_verb(path)
        if verb != self.verb or not path.startswith("/"):
            return None
        parts = path[1:].split("/")
        if self.segments[-1].text == "**":
            parts[len(self.segments) - 1 :] = ["/".join(parts[len(self.segments) - 1 :])]
        if len(parts) != len(self.segments) or "" in parts:
            return None
        values: dict[str, list[str]] = {}
        for part, segment in zip(parts, self.segments, strict=True):
            if segment.is_literal and part != segment.text:
                return None
            if segment.field:
                values.setdefault(segment.field, []).append(part)
        try:
            return {field: self._decode(field, "/".join(parts)) for field, parts in values.items()}
        except UnicodeDecodeError:
            return None

    def expand(self, values: Mapping[str, str]) -> str:
        """The path that `match` reads `values` from.

        Raises:
            KeyError: for a field without a value.
            ValueError: for a value that does not fit its field's segments.
        """
        spans = {
            s.field or index: s for index, s in enumerate(self.segments)
        }  # one step per field or literal
        steps = [self._encode(s.field, values[s.field]) if s.field else s.text for s in spans.values()]
        path = "/" + "/".join(steps) + (f":{self.verb}" if self.verb else "")
        if self.match(path) != {field: values[field] for field in self.fields}:
            raise ValueError(f"{dict(values)} does not fit {self.text}")
        return path

    def _is_long(self, field: str) -> bool:
        """Whether a field covers more than one segment."""
        mine = [s.text for s in self.segments if s.field == field]
        return len(mine) > 1 or mine == ["**"]

    def _encode(self, field: str, value: str) -> str:
        return quote(value, safe="-_.~/" if self._is_long(field) else "-_.~")

    def _decode(self, field: str, raw: str) -> str:
        if self._is_long(field):
            raw = _ENCODED_SLASH.sub(r"%25\1", raw)
        return unquote(raw, errors="strict")


def split_verb(path: str) -> tuple[str, str]:
    """The path before the last segment's colon, and the verb after it; empty without one.

    A colon with nothing behind it is a verb that no template has.
    """
    last = path.rpartition("/")[2]
    if ":" not in last or last.endswith("}"):  # in a template, a field's own segments end so
        return path, ""
    head, _, verb = path.rpartition(":")
    return head, verb or ":"
