"""The part of the Open Inference Protocol that asks about the server, over gRPC; models answer for themselves.

Source: Open Inference Protocol v2, grpc_predict_v2.proto.
"""

from typing import Any

import grpc
from google.protobuf.message import Message
from tritonclient.grpc import service_pb2

SERVICE = "inference.GRPCInferenceService"
FOREIGN = {SERVICE: "caller.get"}
"""The permission of a service whose proto is not ours."""


def add_to(release: str, server: Any) -> None:
    """Add the methods to a server. Those about models are left out: Envoy sends them to replicas."""
    handlers = {
        "ServerLive": _always(service_pb2.ServerLiveRequest, service_pb2.ServerLiveResponse(live=True)),
        "ServerReady": _always(service_pb2.ServerReadyRequest, service_pb2.ServerReadyResponse(ready=True)),
        "ServerMetadata": _always(
            service_pb2.ServerMetadataRequest,
            service_pb2.ServerMetadataResponse(name="aios", version=release),
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


def _always(request_type: type[Message], answer: Message) -> Any:
    async def method(request: Message, context: object) -> Message:
        return answer

    return grpc.unary_unary_rpc_method_handler(
        method, request_type.FromString, type(answer).SerializeToString
    )
