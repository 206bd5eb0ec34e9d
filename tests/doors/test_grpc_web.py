"""A web page calls by gRPC-web: the very bytes that a browser sends, from an origin that may and one that may not."""

import base64
import struct

import httpx
import pytest

from aios.identity.v1 import identity_service_pb2
from tests.doors.callers import Caller
from tests.doors.live import ORIGIN, Live

GET_CALLER = "/aios.identity.v1.IdentityService/GetCaller"
MEDIA = "application/grpc-web+proto"


@pytest.fixture
def page(live: Live) -> httpx.Client:
    """A page of the allowed origin."""
    return httpx.Client(
        base_url=live.address,
        trust_env=False,
        headers={"origin": ORIGIN, "content-type": MEDIA, "x-grpc-web": "1"},
    )


def test_a_call_over_grpc_web_is_answered_with_its_trailers_in_the_body(
    page: httpx.Client, everyone: dict[str, Caller]
) -> None:
    reply = page.post(GET_CALLER, content=framed(b""), headers=everyone["viewer"].headers)
    assert reply.headers["content-type"] == MEDIA
    assert reply.headers["access-control-allow-origin"] == ORIGIN
    assert "grpc-status" in reply.headers["access-control-expose-headers"]
    message, trailers = frames(reply.content)
    assert identity_service_pb2.Caller.FromString(message).subject == "the-viewer"
    assert b"grpc-status:0" in trailers.replace(b" ", b"")


def test_text_mode_is_the_same_in_base64(page: httpx.Client, everyone: dict[str, Caller]) -> None:
    text = "application/grpc-web-text+proto"
    reply = page.post(
        GET_CALLER,
        content=base64.b64encode(framed(b"")),
        headers=everyone["viewer"].headers | {"content-type": text, "accept": text},
    )
    assert reply.headers["content-type"] == text
    (message, _) = frames(_decoded(reply.content))
    assert identity_service_pb2.Caller.FromString(message).subject == "the-viewer"


def test_a_refusal_is_a_grpc_status_that_the_page_may_read(page: httpx.Client) -> None:
    reply = page.post(GET_CALLER, content=framed(b""))
    assert (reply.status_code, reply.headers["grpc-status"]) == (200, "16")
    assert reply.headers["access-control-allow-origin"] == ORIGIN
    assert b"TOKEN_MISSING" in base64.b64decode(reply.headers["grpc-status-details-bin"] + "==")


def test_a_page_may_send_what_our_clients_send(page: httpx.Client) -> None:
    wanted = "authorization,content-type,x-grpc-web,x-user-agent,grpc-timeout,traceparent,x-aios-timeout"
    for path in (GET_CALLER, "/v1/projects", "/v2/models/any/infer"):
        reply = page.options(
            path, headers={"access-control-request-method": "POST", "access-control-request-headers": wanted}
        )
        assert reply.status_code == 200
        assert reply.headers["access-control-allow-origin"] == ORIGIN
        assert set(wanted.split(",")) <= set(reply.headers["access-control-allow-headers"].split(", "))
        assert "POST" in reply.headers["access-control-allow-methods"]


def test_another_origin_gets_no_permission(page: httpx.Client, everyone: dict[str, Caller]) -> None:
    for origin in ("https://evil.example.org", "null", f"{ORIGIN}.evil.example.org", ORIGIN.upper() + "x"):
        ask = {"origin": origin, "access-control-request-method": "POST"}
        assert "access-control-allow-origin" not in page.options(GET_CALLER, headers=ask).headers
        called = page.post(
            GET_CALLER, content=framed(b""), headers=everyone["viewer"].headers | {"origin": origin}
        )
        assert "access-control-allow-origin" not in called.headers


def framed(message: bytes) -> bytes:
    return struct.pack(">BI", 0, len(message)) + message


def frames(body: bytes) -> tuple[bytes, bytes]:
    """The one message of a body, and its trailers. Source: grpc/grpc PROTOCOL-WEB.md."""
    found = {}
    while body:
        flags, size = struct.unpack(">BI", body[:5])
        found[flags] = body[5 : 5 + size]
        body = body[5 + size :]
    return found[0], found[0x80]


def _decoded(text: bytes) -> bytes:
    """Base64 that may be padded in the middle: frames are encoded one by one."""
    return b"".join(base64.b64decode(text[start : start + 4]) for start in range(0, len(text), 4))
