"""What readers of all formats share: hostile input ends in an error that names its place."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from aios.errors import InvalidArgument

RECORDS_MAX = 1_000_000


def wrong(place: str, problem: str) -> InvalidArgument:
    """The error of a file that cannot be read. `place` is the file and the row."""
    return InvalidArgument.of("source", f"{place}: {problem}")


@contextmanager
def at(place: str) -> Iterator[None]:
    """Tell what goes wrong inside with its place."""
    try:
        yield
    except InvalidArgument:
        raise
    except (KeyError, IndexError) as error:
        raise wrong(place, f"lacks {error}") from None
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise wrong(place, str(error)) from None


def text_of(content: bytes, place: str) -> str:
    """UTF-8, with or without a mark at its beginning."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise wrong(place, f"must be UTF-8: {error}") from None


def json_of(content: bytes | str, place: str) -> Any:
    """A JSON document without NaN and infinities, which JSON has not."""
    text = text_of(content, place) if isinstance(content, bytes) else content
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise wrong(place, f"is no JSON: {error}") from None


def single(
    files: Mapping[str, bytes], suffix: str, named: Callable[[str], bool] | None = None
) -> tuple[str, bytes]:
    """The one file of a kind."""
    found = [name for name in files if name.endswith(suffix) and (named is None or named(name))]
    if len(found) != 1:
        raise InvalidArgument.of("source", f"must hold one file {suffix}; it holds {len(found)}")
    return found[0], files[found[0]]


def count(value: Any, what: str, most: int = 1_000_000) -> int:
    """A whole number from 0."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise ValueError(f"{what} must be a whole number of 0 to {most}")
    return value


def text(value: Any, what: str) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{what} must be a text")
    return value


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no number")
