"""What can be set of a transform, and how a value that was given is read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aios.errors import InvalidArgument

Value = int | float | bool | str | tuple[str, ...] | Mapping[str, Any]
TEXT_CHARS_MAX = 1_000
NAMES_MAX = 1_000  # of one list


@dataclass(frozen=True)
class Parameter:
    """One parameter. Its kind is that of its default: a list of texts is a tuple. Bounds include their ends."""

    default: Value
    summary: str
    low: float = float("-inf")
    high: float = float("inf")
    choices: tuple[str, ...] = ()

    def read(self, field: str, value: object) -> Value:
        """`value` as this parameter's kind. A list may be given as one text with commas.

        Raises:
            InvalidArgument: naming `field` and what it takes.
        """
        if isinstance(self.default, tuple):
            return self._texts(field, value)
        if isinstance(self.default, Mapping):
            if not isinstance(value, Mapping):
                raise InvalidArgument.of(field, f"must be a mapping, not {shown(value)}")
            return dict(value)
        if isinstance(self.default, str):
            return self._text(field, value)
        if isinstance(self.default, bool):
            if not isinstance(value, bool):
                raise InvalidArgument.of(field, f"must be true or false, not {shown(value)}")
            return value
        whole = isinstance(self.default, int)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidArgument.of(field, f"must be a number, not {shown(value)}")
        if not self.low <= value <= self.high:
            raise InvalidArgument.of(field, f"must be between {self.low:g} and {self.high:g}, not {value:g}")
        if whole and value != int(value):
            raise InvalidArgument.of(field, f"must be a whole number, not {value:g}")
        return int(value) if whole else float(value)

    def _text(self, field: str, value: object) -> str:
        if self.choices and value not in self.choices:
            raise InvalidArgument.of(field, f"must be one of {', '.join(self.choices)}, not {shown(value)}")
        if not isinstance(value, str) or len(value) > TEXT_CHARS_MAX:
            raise InvalidArgument.of(
                field, f"must be text of at most {TEXT_CHARS_MAX} characters, not {shown(value)}"
            )
        return value

    def _texts(self, field: str, value: object) -> tuple[str, ...]:
        if isinstance(value, str):
            value = [each.strip() for each in value.split(",") if each.strip()]
        if not isinstance(value, Sequence) or not all(isinstance(each, str) for each in value):
            raise InvalidArgument.of(field, f"must be a list of texts, not {shown(value)}")
        if len(value) > NAMES_MAX:
            raise InvalidArgument.of(field, f"must not have more than {NAMES_MAX} items")
        if self.choices and (odd := [each for each in value if each not in self.choices]):
            raise InvalidArgument.of(field, f"must be some of {', '.join(self.choices)}, not {shown(odd[0])}")
        return tuple(value)


def shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
