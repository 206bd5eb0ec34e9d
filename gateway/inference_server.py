"""The part of the Open Inference Protocol that asks about the server, over gRPC; models answer for themselves.

Written as wire bytes: the protocol's Python module exists once, inside a client library that a server has no use for.
Source: Open Inference Protocol v2, grpc_predict_v2.proto.
"""

from typing import Any

import grpc

SERVICE = "inference.GRPCInferenceService"
FOREIGN = {SERVICE: "caller.get"}
"""The permission of a service whose proto is not ours."""
_TRUE = b"\x08\x01"  # field 1, a boolean: ServerLiveResponse.live, ServerReadyResponse.ready


def add_to(server_metadata: tuple[str, str], server: Any) -> None:
    """Add the three methods to a server.

    Args:
        server_metadata: Name and release.
    """
    metadata = b"".join(_text(field, value) for field, value in enumerate(server_metadata, start=1))
    answers = {"ServerLive": _TRUE, "ServerReady": _TRUE, "ServerMetadata": metadata}
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(_always(answer)) for name, answer in answers.items()
    }
    server.add_registered_method_handlers(SERVICE, handlers)


def _always(answer: bytes) -> Any:
    async def method(request: bytes, context: object) -> bytes:
        return answer

    return method


def _text(field: int, value: str) -> bytes:
    raw = value.encode()
    assert len(raw) < 128, "one byte of length"
    return bytes((field << 3 | 2, len(raw))) + raw
