"""One HTTP request and its answer, as ASGI gives them: a bounded body in, headers and bodies out."""

from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from aios.errors import Unauthenticated
from gateway.http.problems import BodyTooLarge, NotJson

BODY_BYTES_MAX = 4 * 1024 * 1024  # gRPC's own limit for a message: the JSON of one is never smaller


class ClientGone(Exception):
    """The client hung up before it had sent its request."""


class Exchange:
    """Reads the request once and writes the answer once."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, answer_headers: Mapping[str, str]) -> None:
        """
        Args:
            answer_headers: Sent with every answer.
        """
        self.method: str = scope["method"]
        self.path: str = scope["raw_path"].decode("latin-1")
        """As sent, percent-encoded, without the query."""
        self.query: str = scope["query_string"].decode("latin-1")
        self.headers = Headers(scope=scope)
        self._receive = receive
        self._send = send
        self._answer_headers = answer_headers

    async def body(self) -> bytes:
        """The whole body.

        Raises:
            BodyTooLarge: before the rest of it is read.
            NotJson: it is declared to be something else.
            ClientGone: it will never be whole.
        """
        declared = self.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > BODY_BYTES_MAX:
            raise _too_large()
        chunks: list[bytes] = []
        size, more = 0, True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > BODY_BYTES_MAX:
                raise _too_large()
            more = message.get("more_body", False)
        if size:
            self._check_media_type()
        return b"".join(chunks)

    async def gone(self) -> None:
        """Return when the client hangs up. Only after the body was read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the status line and headers; `write` follows."""
        lines = {"cache-control": "no-store", **self._answer_headers, **headers}
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in lines.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def write(self, chunk: bytes, *, last: bool = False) -> None:
        """Send a piece of the body. Waits while the client is slow to read."""
        await self._send({"type": "http.response.body", "body": chunk, "more_body": not last})

    async def answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send everything at once."""
        await self.start(status, {**headers, "content-length": str(len(body))})
        await self.write(body, last=True)

    def _check_media_type(self) -> None:
        media_type = self.headers.get("content-type", "application/json").split(";")[0].strip().lower()
        if media_type != "application/json" and not media_type.endswith("+json"):
            raise NotJson(f"send the body as content-type: application/json, not {media_type[:80]}")
        if self.headers.get("content-encoding", "identity").lower() != "identity":
            raise NotJson("send the body without content-encoding")


def authorization(headers: Headers) -> list[tuple[str, str]]:
    """Who calls, as the client said it: whoever answers checks it. And from where, as the door said it.

    Raises:
        Unauthenticated: what it said is no text.
    """
    said = headers.get("authorization", "")
    if not (said.isascii() and said.isprintable()):
        raise Unauthenticated("the header authorization holds bytes that are no text", reason="TOKEN_INVALID")
    source = headers.get("x-forwarded-for", "")
    said_too = [("x-forwarded-for", source)] if source.isascii() and source.isprintable() and source else []
    return [("authorization", said), *said_too] if said else said_too


def _too_large() -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than {BODY_BYTES_MAX} bytes", limit_bytes=str(BODY_BYTES_MAX))
