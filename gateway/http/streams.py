"""How a stream of messages is written over HTTP: a line or an event each, and always a last record that says how it
ended. A connection that just closes was cut, and the client knows it.
"""

from typing import Any, Protocol

from gateway.http.problems import encode


class Format(Protocol):
    """A way to write records."""

    media_type: str

    def message(self, value: Any) -> bytes:
        """One message of the stream."""

    def end(self) -> bytes:
        """The last record of a stream that is complete."""

    def error(self, problem: dict[str, Any]) -> bytes:
        """The last record of a stream that failed."""


class JsonLines:
    """`application/x-ndjson`: the last line is `{"end": true}` or `{"error": {...}}`."""

    media_type = "application/x-ndjson"

    def message(self, value: Any) -> bytes:
        return encode(value) + b"\n"

    def end(self) -> bytes:
        return self.message({"end": True})

    def error(self, problem: dict[str, Any]) -> bytes:
        return self.message({"error": problem})


class ServerSentEvents:
    """`text/event-stream`: messages as unnamed events; the last one is named `end` or `error`.

    Source: html.spec.whatwg.org, server-sent events.
    """

    media_type = "text/event-stream"

    def message(self, value: Any) -> bytes:
        return b"data: " + encode(value) + b"\n\n"

    def end(self) -> bytes:
        return b"event: end\n" + self.message({"end": True})

    def error(self, problem: dict[str, Any]) -> bytes:
        return b"event: error\n" + self.message({"error": problem})


def wanted(accept: str) -> Format:
    """The format that a client's Accept header asks for."""
    return ServerSentEvents() if ServerSentEvents.media_type in accept.lower() else JsonLines()
