"""Tokens to text as it grows: never half a character, never a part of a stop sequence."""

from collections.abc import Callable, Sequence

HALF = "\ufffd"
"""What a tokenizer shows of a character whose bytes are not all there yet."""


class Writer:
    """The text of one answer. `add` gives what may be shown already.

    Args:
        decode: Tokens to text.
        stops: Where one of them appears the answer ends, before it.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str]) -> None:
        self._decode = decode
        self._stops = [stop for stop in stops if stop]
        self._tokens: list[int] = []
        self._from, self._shown = 0, 0  # tokens: where decoding starts, and what of them is in the text
        self._held = ""
        self.stopped = False
        """Whether a stop sequence has appeared."""

    def add(self, token: int) -> str:
        """One token more. Returns the text that is certain now."""
        self._tokens.append(token)
        before = self._decode(self._tokens[self._from : self._shown])
        now = self._decode(self._tokens[self._from :])
        if now.endswith(HALF):
            return ""
        # From the last word boundary on: what a token means may depend on the one before.
        self._from, self._shown = self._shown, len(self._tokens)
        return self._pass(now[len(before) :])

    def end(self) -> str:
        """What was held back, once no token follows."""
        if self.stopped:
            return ""
        before = self._decode(self._tokens[self._from : self._shown])
        rest = self._pass(self._decode(self._tokens[self._from :])[len(before) :])
        rest, self._held = rest + self._held, ""
        return rest

    def _pass(self, text: str) -> str:
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            shown, self._held = self._held[: min(found)], ""
            return shown
        hold = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        at = len(self._held) - hold
        shown, self._held = self._held[:at], self._held[at:]
        return shown


def _overlap(text: str, stop: str) -> int:
    """How much of `text`'s end may be the start of `stop`."""
    return next(
        (size for size in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-size:])), 0
    )
