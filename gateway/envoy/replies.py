"""What Envoy itself says when it refuses: problem JSON (RFC 9457) to HTTP, a status and plain text to gRPC. Pure."""

from __future__ import annotations

from typing import Any

from gateway.envoy.routes import MODEL_HEADER, PREDICT, PREDICT_METHODS, PROJECT_HEADER, TRACE_HEADER

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

# HTTP status -> (title, reason). The reason is what programs test; it never changes.
_PROBLEMS = {
    400: ("Bad request", "BAD_REQUEST"),
    401: ("Unauthenticated", "UNAUTHENTICATED"),
    403: ("Permission denied", "PERMISSION_DENIED"),
    404: ("Not found", "NOT_FOUND"),
    408: ("Request timeout", "REQUEST_TIMEOUT"),
    413: ("Body too large", "BODY_TOO_LARGE"),
    415: ("Unsupported encoding", "UNSUPPORTED_ENCODING"),
    426: ("Upgrade required", "UPGRADE_REQUIRED"),
    429: ("Too many requests", "RATE_LIMITED"),
    431: ("Headers too large", "HEADERS_TOO_LARGE"),
    500: ("Internal error", "INTERNAL"),
    502: ("Bad answer from upstream", "BAD_UPSTREAM_ANSWER"),
    503: ("Unavailable", "UNAVAILABLE"),
    504: ("Deadline exceeded", "DEADLINE_EXCEEDED"),
}

# HTTP status -> gRPC status where Envoy's own translation says something else (UNKNOWN, UNAVAILABLE).
_GRPC_STATUS = {408: 4, 413: 8, 429: 8, 504: 4}  # DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED


def local_replies() -> Json:
    """`local_reply_config` of the listener. The first mapper that matches writes the answer."""
    grpc = _request("content-type", {"prefix": "application/grpc"})
    predict = _request(":path", {"safe_regex": {"regex": f"/{PREDICT}/({'|'.join(PREDICT_METHODS)})"}})
    return {
        "mappers": [
            _mapper(
                [grpc, predict, _status(404)],
                {"text_format_source": {"inline_string": _NO_DEPLOYMENT_GRPC}},
                5,
            ),
            *(_mapper([grpc, _status(code)], _text(), number) for code, number in _GRPC_STATUS.items()),
            _mapper([grpc], _text()),
            _mapper(
                [_request(":path", {"prefix": "/v2/"}), _status(404)], _problem(404, _NO_DEPLOYMENT_HTTP)
            ),
            *(_mapper([_status(code)], _problem(code, _BODY)) for code in _PROBLEMS),
        ]
    }


def _problem(status: int, detail: str) -> Json:
    title, reason = _PROBLEMS[status]
    return {
        "content_type": "application/problem+json",
        "json_format": {
            "type": "about:blank",
            "title": title,
            "status": status,
            "detail": detail,
            "reason": reason,
            "domain": "aios",
            "trace_id": "%TRACE_ID%",
        },
    }


def _text() -> Json:
    return {"text_format_source": {"inline_string": _BODY}}


def _mapper(filters: list[Json], body: Json, grpc_status: int | None = None) -> Json:
    headers = [_header(TRACE_HEADER, "%TRACE_ID%")]
    if grpc_status is not None:
        headers.append(_header("grpc-status", str(grpc_status)))
    return {
        "filter": filters[0] if len(filters) == 1 else {"and_filter": {"filters": filters}},
        "body_format_override": body,
        "headers_to_add": headers,
    }


def _request(header: str, match: Json) -> Json:
    return {"header_filter": {"header": {"name": header, "string_match": match}}}


def _status(code: int) -> Json:
    value = {"default_value": code, "runtime_key": f"aios.local_reply.{code}"}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}


def _header(name: str, value: str) -> Json:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
