"""Tokens of those who only send them: read from a file, never made or checked. Loads no cryptography."""

from collections.abc import Callable
from pathlib import Path

from aios.errors import Unauthenticated

TokenSource = Callable[[], str]
"""Gives the token to send now."""


def token_file(path: Path) -> TokenSource:
    """A source that reads the file at each use, so that the token can be renewed in place."""

    def read() -> str:
        try:
            return path.read_text().strip()
        except FileNotFoundError:
            raise Unauthenticated(
                f"There is no token at {path}: run `aios login`.", reason="TOKEN_MISSING"
            ) from None

    return read
