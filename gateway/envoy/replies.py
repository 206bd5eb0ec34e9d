"""What Envoy itself says when it refuses: problem JSON (RFC 9457) to HTTP, a status and plain text to gRPC. Pure."""

from __future__ import annotations

from typing import Any

from gateway.envoy import limits
from gateway.envoy.routes import MODEL_HEADER, PREDICT, PREDICT_METHODS, PROJECT_HEADER

Json = dict[str, Any]

_BODY = "%LOCAL_REPLY_BODY%"
_NO_DEPLOYMENT_HTTP = (
    f"Project %REQ({PROJECT_HEADER})% serves nothing at %PATH(NQ)%. Check the deployment's name, the token's "
    "project, and that the path is one of infer, generate, generate_stream, ready, config, stats."
)
_NO_DEPLOYMENT_GRPC = (
    f'Project %REQ({PROJECT_HEADER})% has no deployment "%REQ({MODEL_HEADER})%". '
    "Check the model name and the token's project."
)
_UNREADABLE = "The message cannot be read. Send it without gRPC compression."

# HTTP status -> (gRPC code of the same meaning, reason). Programs test the reason; it never changes.
_PROBLEMS = {
    400: ("INVALID_ARGUMENT", "BAD_REQUEST"),
    401: ("UNAUTHENTICATED", "UNAUTHENTICATED"),
    403: ("PERMISSION_DENIED", "PERMISSION_DENIED"),
    404: ("NOT_FOUND", "NOT_FOUND"),
    408: ("DEADLINE_EXCEEDED", "REQUEST_TIMEOUT"),
    413: ("INVALID_ARGUMENT", "BODY_TOO_LARGE"),
    415: ("INVALID_ARGUMENT", "UNSUPPORTED_ENCODING"),
    426: ("INVALID_ARGUMENT", "UPGRADE_REQUIRED"),
    429: ("RESOURCE_EXHAUSTED", "RATE_LIMITED"),
    431: ("INVALID_ARGUMENT", "HEADERS_TOO_LARGE"),
    500: ("INTERNAL", "INTERNAL"),
    502: ("UNAVAILABLE", "BAD_UPSTREAM_ANSWER"),
    503: ("UNAVAILABLE", "UNAVAILABLE"),
    504: ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED"),
}

# HTTP status -> gRPC status where Envoy's own translation says something else (UNKNOWN, UNAVAILABLE).
_GRPC_STATUS = {
    403: 7,
    408: 4,
    413: 8,
    429: 8,
    504: 4,
}  # PERMISSION_DENIED, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED

# Where Envoy's own words do not say what to change.
_DETAILS = {
    400: "The request is malformed: %RESPONSE_CODE_DETAILS%.",
    403: "This token may not do this: its role does not allow it, it has another audience, or it is revoked.",
    413: f"The body is too large: at most {limits.JSON_BODY_BYTES_MAX // limits.MIB} MiB here, and "
    f"{limits.TENSOR_BODY_BYTES_MAX // limits.MIB} MiB for tensors.",
}


def local_replies() -> Json:
    """`local_reply_config` of the listener. The first mapper that matches writes the answer."""
    grpc = _request("content-type", {"prefix": "application/grpc"})
    predict = _request(":path", {"safe_regex": {"regex": f"/{PREDICT}/({'|'.join(PREDICT_METHODS)})"}})
    return {
        "mappers": [
            _mapper([grpc, predict, _status(404)], _text(_NO_DEPLOYMENT_GRPC), 5),
            _mapper([grpc, predict, _extraction("FAILED_PRECONDITION")], _text(_DETAILS[413]), 8),
            _mapper([grpc, predict, _extraction("INVALID_ARGUMENT")], _text(_UNREADABLE)),
            *(
                _mapper([grpc, _status(code)], _text(_DETAILS.get(code, _BODY)), number)
                for code, number in _GRPC_STATUS.items()
            ),
            _mapper([grpc], _text(_BODY)),
            _mapper(
                [_request(":path", {"prefix": "/v2/"}), _status(404)], _problem(404, _NO_DEPLOYMENT_HTTP)
            ),
            *(_mapper([_status(code)], _problem(code, _DETAILS.get(code, _BODY))) for code in _PROBLEMS),
        ]
    }


def _problem(status: int, detail: str) -> Json:
    """The members of the gateway's own problems. The trace id is in a header only: Envoy does not give it to bodies."""
    code, reason = _PROBLEMS[status]
    return {
        "content_type": "application/problem+json",
        "json_format": {
            "type": f"urn:aios:error:{reason.lower().replace('_', '-')}",
            "title": code.replace("_", " ").capitalize(),
            "status": status,
            "detail": detail,
            "instance": "urn:aios:request:%REQ(x-request-id)%",
            "code": code,
            "reason": reason,
            "domain": "aios",
            "metadata": {},
        },
    }


def _text(text: str) -> Json:
    return {"text_format_source": {"inline_string": text}}


def _mapper(filters: list[Json], body: Json, grpc_status: int | None = None) -> Json:
    mapper: Json = {
        "filter": filters[0] if len(filters) == 1 else {"and_filter": {"filters": filters}},
        "body_format_override": body,
    }
    if grpc_status is not None:
        header = {"key": "grpc-status", "value": str(grpc_status)}
        mapper["headers_to_add"] = [{"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}]
    return mapper


def _request(header: str, match: Json) -> Json:
    return {"header_filter": {"header": {"name": header, "string_match": match}}}


def _extraction(status: str) -> Json:
    """The filter that reads the model's name gave up: FAILED_PRECONDITION means its buffer is full."""
    return {
        "extension_filter": {
            "name": "envoy.access_loggers.extension_filters.cel",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
                "expression": f"response.code_details.startsWith('grpc_field_extraction_{status}')",
            },
        }
    }


def _status(code: int) -> Json:
    value = {"default_value": code, "runtime_key": f"aios.local_reply.{code}"}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}
