"""What Envoy's filters cannot say in configuration, as Lua beside this file. Each script tells at its head what it does."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from aios.errors import Internal, InvalidArgument, Unavailable
from gateway.envoy import limits
from gateway.envoy.routes import MODEL_HEADER, REFUSED_HEADER, SCRIPT_OF_TENSORS

EXTRACTION = "envoy.filters.http.grpc_field_extraction"
SCRIPT_OF_ALL = "grpc"
"""Runs where a route names no other: what it looks for is there over gRPC alone."""

MODEL_DIED = "Stub process "
"""How Triton begins to say that a model's process is gone, until the replica's supervisor has replaced the server."""

REFUSALS = {
    "SHAPE_TOO_LARGE": InvalidArgument(
        "The shapes must have no more elements together than the body has bytes: check `shape` and send all data.",
        reason="SHAPE_INVALID",
    ),
    "SHAPE_INVALID": InvalidArgument(
        "A shape must be an array of sizes, none of them negative.", reason="SHAPE_INVALID"
    ),
    "NESTED_TOO_DEEP": InvalidArgument(
        f"The body is nested deeper than {limits.JSON_DEPTH_MAX} levels.", reason="MALFORMED_JSON"
    ),
    "KEY_ESCAPED": InvalidArgument(
        "Write the letters of JSON's keys as they are, not as escapes.", reason="MALFORMED_JSON"
    ),
    "HEADER_LENGTH_INVALID": InvalidArgument(
        "inference-header-content-length must be the number of bytes of the JSON before the raw tensors.",
        reason="HEADER_INVALID",
    ),
    "HEADER_UNREADABLE": InvalidArgument(
        "A header cannot be read: grpc-timeout is at most eight digits and one of HMSmun, grpc-encoding is identity, "
        "gzip or deflate, and headers that end in -bin are base64.",
        reason="HEADER_INVALID",
    ),
    "MESSAGE_INVALID": InvalidArgument(
        "The request's bytes are not the message that this method takes.", reason="MALFORMED_MESSAGE"
    ),
}
"""What a script says in REFUSED_HEADER, and what the caller is told."""


def scripts() -> dict[str, object]:
    """The configuration of the filter: every script by its name."""
    return {
        "default_source_code": {"inline_string": script(SCRIPT_OF_ALL)},
        "source_codes": {SCRIPT_OF_TENSORS: {"inline_string": script(SCRIPT_OF_TENSORS)}},
    }


@cache
def script(name: str) -> str:
    """The text of one script, its constants before it."""
    constants = {
        "ELEMENTS_MAX": limits.TENSOR_BODY_BYTES_MAX,
        "DEPTH_MAX": limits.JSON_DEPTH_MAX,
        "MODEL_HEADER": f'"{MODEL_HEADER}"',
        "REFUSED_HEADER": f'"{REFUSED_HEADER}"',
        "EXTRACTION": f'"{EXTRACTION}"',
        "INVALID_ARGUMENT": f'"{InvalidArgument.code.value}"',
        "INTERNAL": f'"{Internal.code.value}"',
        "UNAVAILABLE": f'"{Unavailable.code.value}"',
        "MODEL_DIED": f'"{MODEL_DIED}"',
    }
    lines = [f"local {key} = {value}" for key, value in constants.items()]
    return "\n".join([*lines, files(__package__).joinpath(f"{name}.lua").read_text()])
