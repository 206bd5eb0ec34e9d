"""What a search asks for, in MLflow's words: `metrics.accuracy > 0.9 AND params.model = 'cnn'`. Pure.

Source: mlflow.org/docs, "Search Runs": comparisons joined by AND; keys of other characters in backticks or quotes.
"""

import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from aios.errors import InvalidArgument

LENGTH_MAX, CONDITIONS_MAX = 10_000, 50
NUMERIC = ("=", "!=", ">", ">=", "<", "<=")
TEXTUAL = ("=", "!=", "LIKE", "ILIKE", "IN", "NOT IN")
KINDS = {
    "metrics": "metric",
    "metric": "metric",
    "params": "param",
    "param": "param",
    "parameters": "param",
    "parameter": "param",
    "tags": "tag",
    "tag": "tag",
    "attributes": "attribute",
    "attribute": "attribute",
    "attr": "attribute",
    "run": "attribute",
}
_COMPARE = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<quoted>'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`)
      | (?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))
      | (?P<word>[\w/@-]+)
      | (?P<mark><=|>=|!=|<|>|=|\(|\)|,|\.)
    )""",
    re.VERBOSE,
)

T = TypeVar("T")
Value = str | float | None


@dataclass(frozen=True)
class Condition:
    """One comparison."""

    kind: str
    """`metric`, `param`, `tag` or `attribute`."""
    key: str
    operator: str
    values: tuple[str | float, ...]
    """One, or those of IN."""


@dataclass(frozen=True)
class Order:
    """One thing to sort by."""

    kind: str
    key: str
    descending: bool


def conditions(text: str, numeric: Sequence[str], field: str = "filter") -> list[Condition]:
    """Every comparison of a filter.

    Args:
        numeric: Attributes that are numbers.

    Raises:
        InvalidArgument: with where it goes wrong.
    """
    reader = _Reader(text, field)
    found: list[Condition] = []
    while not reader.done:
        if found:
            reader.take("AND")
        found.append(_condition(reader, numeric))
        if len(found) > CONDITIONS_MAX:
            raise InvalidArgument.of(field, f"at most {CONDITIONS_MAX} comparisons")
    return found


def orders(texts: Sequence[str], field: str = "order_by") -> list[Order]:
    """What `order_by` says.

    Raises:
        InvalidArgument: with where it goes wrong.
    """
    found = []
    for index, text in enumerate(texts):
        reader = _Reader(text, f"{field}[{index}]")
        kind, key = reader.name()
        way = "ASC" if reader.done else reader.word().upper()
        if way not in ("ASC", "DESC") or not reader.done:
            raise InvalidArgument.of(reader.field, "must be a name, then ASC or DESC")
        found.append(Order(kind, key, way == "DESC"))
    return found


def matching(
    found: Iterable[T],
    asked: Sequence[Condition],
    order: Sequence[Order],
    value: Callable[[T, str, str], Value],
) -> list[T]:
    """Those that every comparison holds for, in order; for what is few enough to be looked at one by one.

    Args:
        value: Of one of them, by kind and key. None where it has none.

    Raises:
        InvalidArgument: `value` knows no such key.
    """
    kept = [each for each in found if all(_holds(one, value(each, one.kind, one.key)) for one in asked)]
    for one in reversed(order):
        keyed = [(value(each, one.kind, one.key), each) for each in kept]
        said = [pair for pair in keyed if pair[0] is not None]
        said.sort(key=_first, reverse=one.descending)
        kept = [each for _, each in said] + [each for known, each in keyed if known is None]
    return kept


def _first(pair: tuple[Any, Any]) -> Any:
    return pair[0]


def _holds(condition: Condition, value: Value) -> bool:
    first = condition.values[0]
    match condition.operator:
        case "=":
            return bool(value == first)
        case "!=":
            return bool(value != first)
        case "IN":
            return value in condition.values
        case "NOT IN":
            return value not in condition.values
        case "LIKE" | "ILIKE" as kind:
            flags = re.IGNORECASE | re.DOTALL if kind == "ILIKE" else re.DOTALL
            pattern = re.escape(str(first)).replace("%", ".*").replace("_", ".")
            return value is not None and re.fullmatch(pattern, str(value), flags) is not None
        case sign:
            return value is not None and bool(_COMPARE[sign](float(value), float(first)))


def _condition(reader: "_Reader", numeric: Sequence[str]) -> Condition:
    kind, key = reader.name()
    operator = reader.word().upper()
    if operator == "NOT":
        reader.take("IN")
        operator = "NOT IN"
    is_number = kind == "metric" or (kind == "attribute" and key in numeric)
    allowed = NUMERIC if is_number else TEXTUAL
    if operator not in allowed:
        raise InvalidArgument.of(reader.field, f"{kind} {key!r} takes {', '.join(allowed)}, not {operator!r}")
    if not operator.endswith("IN"):
        return Condition(kind, key, operator, (reader.value(is_number),))
    reader.take("(")
    values = [reader.value(is_number)]
    while (mark := reader.word()) == ",":
        values.append(reader.value(is_number))
    if mark != ")":
        raise InvalidArgument.of(reader.field, f"a list ends with ), not {mark!r}")
    return Condition(kind, key, operator, tuple(values))


class _Reader:
    def __init__(self, text: str, field: str) -> None:
        self.field = field
        if len(text) > LENGTH_MAX:
            raise InvalidArgument.of(field, f"at most {LENGTH_MAX} characters")
        self._tokens: list[tuple[str, str]] = []
        at, text = 0, text.strip()
        while at < len(text):
            token = _TOKEN.match(text, at)
            if token is None:
                raise InvalidArgument.of(field, f"cannot be read from {text[at : at + 20]!r} on")
            self._tokens.append((str(token.lastgroup), token[0].strip()))
            at = token.end()
        self._at = 0

    @property
    def done(self) -> bool:
        return self._at >= len(self._tokens)

    def next(self) -> tuple[str, str]:
        if self.done:
            raise InvalidArgument.of(self.field, "ends in the middle of a comparison")
        token = self._tokens[self._at]
        self._at += 1
        return token

    def word(self) -> str:
        return self.next()[1]

    def take(self, wanted: str) -> None:
        found = self.word()
        if found.upper() != wanted:
            raise InvalidArgument.of(self.field, f"{wanted} is expected, not {found!r}")

    def name(self) -> tuple[str, str]:
        """What kind of thing is compared, and its key, which may have dots."""
        first = self._key()
        keys: list[str] = []
        while not self.done and self._tokens[self._at] == ("mark", "."):
            self._at += 1
            keys.append(self._key())
        if not keys:
            return "attribute", first
        if first.lower() not in KINDS:
            raise InvalidArgument.of(self.field, f"{first!r} is none of metrics, params, tags and attributes")
        return KINDS[first.lower()], ".".join(keys)

    def _key(self) -> str:
        group, text = self.next()
        if group == "quoted" and text[0] in '`"':
            return text[1:-1]
        if group not in ("word", "number"):
            raise InvalidArgument.of(self.field, f"a name is expected, not {text!r}")
        return text

    def value(self, is_number: bool) -> str | float:
        group, text = self.next()
        if is_number:
            try:
                return float(text)
            except ValueError:
                raise InvalidArgument.of(self.field, f"a number is expected, not {text}") from None
        if group != "quoted" or text[0] == "`":
            raise InvalidArgument.of(self.field, f"a text in quotes is expected, not {text}")
        return text[1:-1].replace(text[0] * 2, text[0])
