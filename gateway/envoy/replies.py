"""What Envoy itself says when it refuses: problem JSON (RFC 9457) to HTTP, a status and plain text to gRPC. Pure."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

from aios.errors import AiosError, PermissionDenied, ResourceExhausted, Unauthenticated
from aios.runtime.gate import Overloaded
from aios.runtime.status import to_status
from gateway.envoy import limits
from gateway.envoy.routes import (
    MODEL_HEADER,
    PREDICT,
    PREDICT_METHODS,
    PROJECT_HEADER,
    REFUSED_HEADER,
    REQUEST_ID,
    REVOKED,
)
from gateway.envoy.scripts import REFUSALS

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
# The filter that reads the model's name gave up. FAILED_PRECONDITION means that its buffer is full.
_EXTRACTION = "grpc_field_extraction_{}"
_UNREADABLE = "The message cannot be read. Send it without gRPC compression."


class _Refusal(NamedTuple):
    """What a filter says, in the very words of the services: a client need not know which of both refused it."""

    sign: Json
    """How it is told from others."""
    status: int
    error: AiosError


def _request(header: str, match: Json) -> Json:
    return {"header_filter": {"header": {"name": header, "string_match": match}}}


def _said(details: str) -> Json:
    """Which filter refused, and why: Envoy's own word for it starts so."""
    return {
        "extension_filter": {
            "name": "envoy.access_loggers.extension_filters.cel",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
                "expression": f"response.code_details.startsWith('{details}')",
            },
        }
    }


def _flags(*flags: str) -> Json:
    """How Envoy itself marks the response. UO: a circuit breaker of the upstream is open. FI: refused by lot."""
    return {"response_flag_filter": {"flags": list(flags)}}


_JWT = "jwt_authn_access_denied"
_REFUSALS = (
    # First, and by a flag: whatever is refused for overload must cost little.
    _Refusal(_flags("UO", "FI"), 429, Overloaded()),
    _Refusal(
        _said(f"{_JWT}{{Jwt_is_missing"),
        401,
        Unauthenticated(
            "Send a token as `authorization: Bearer ...`; `aios login` gets one.", reason="TOKEN_MISSING"
        ),
    ),
    _Refusal(
        _said(f"{_JWT}{{Jwt_is_expired"),
        401,
        Unauthenticated("The token has expired: log in again.", reason="TOKEN_EXPIRED"),
    ),
    _Refusal(
        _said(_JWT),
        401,
        Unauthenticated(
            "The token is not valid here: log in again with `aios login`.", reason="TOKEN_INVALID"
        ),
    ),
    _Refusal(
        _said(f"rbac_access_denied_matched_policy[{REVOKED}]"),
        401,
        Unauthenticated("The token was revoked: ask for a new one.", reason="TOKEN_REVOKED"),
    ),
    _Refusal(
        _said("rbac_access_denied"),
        403,
        PermissionDenied("The token's role may not do this: ask a project admin.", reason="ROLE_TOO_LOW"),
    ),
    _Refusal(
        _said("local_rate_limited"),
        429,
        ResourceExhausted(
            "This token makes too many calls: make fewer, or ask the operator for a higher limit.",
            reason="RATE_LIMITED",
            retry_after=timedelta(seconds=limits.RATE_RETRY_SECONDS),
        ),
    ),
    *(_Refusal(_request(REFUSED_HEADER, {"exact": why}), 400, error) for why, error in REFUSALS.items()),
)

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

OPENAI_PATHS = r"/v1/(models(/[^/]+)?|chat/completions|completions|embeddings)(\?.*)?"
OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}

# HTTP status -> gRPC status where Envoy's own translation says something else (UNKNOWN, INTERNAL, UNAVAILABLE).
_GRPC_STATUS = {
    400: 3,
    403: 7,
    408: 4,
    413: 8,
    415: 3,
    429: 8,
    431: 8,
    504: 4,
}  # INVALID_ARGUMENT, PERMISSION_DENIED, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED

# Where Envoy's own words do not say what to change.
_DETAILS = {
    400: "The request is malformed: %RESPONSE_CODE_DETAILS%.",
    431: f"The headers are too large: at most {limits.HEADERS_KIB_MAX} KiB and {limits.HEADERS_MAX} of them.",
    413: f"The body is too large: at most {limits.JSON_BODY_BYTES_MAX // limits.MIB} MiB here, and "
    f"{limits.TENSOR_BODY_BYTES_MAX // limits.MIB} MiB for tensors.",
}


def local_replies() -> Json:
    """`local_reply_config` of the listener. The first mapper that matches writes the answer."""
    grpc = _request("content-type", {"prefix": "application/grpc"})
    openai = _request(":path", {"safe_regex": {"regex": OPENAI_PATHS}})
    predict = _request(":path", {"safe_regex": {"regex": f"/{PREDICT}/({'|'.join(PREDICT_METHODS)})"}})
    return {
        "mappers": [
            *(_refusal_of_grpc([grpc, one.sign], one.error) for one in _REFUSALS),
            *(_refusal([openai, one.sign], one, _openai) for one in _REFUSALS),
            *(_refusal([one.sign], one) for one in _REFUSALS),
            _mapper([grpc, predict, _status(404)], _text(_NO_DEPLOYMENT_GRPC), _grpc(5)),
            _mapper(
                [grpc, predict, _said(_EXTRACTION.format("FAILED_PRECONDITION"))],
                _text(_DETAILS[413]),
                _grpc(8),
            ),
            _mapper([grpc, predict, _said(_EXTRACTION.format("INVALID_ARGUMENT"))], _text(_UNREADABLE)),
            *(
                _mapper([grpc, _status(code)], _text(_DETAILS.get(code, _BODY)), _grpc(number))
                for code, number in _GRPC_STATUS.items()
            ),
            _mapper([grpc], _text(_BODY)),
            _mapper(
                [_request(":path", {"prefix": "/v2/"}), _status(404)],
                _problem(404, *_PROBLEMS[404], _NO_DEPLOYMENT_HTTP),
            ),
            *(
                _mapper([_status(code)], _problem(code, *said, _DETAILS.get(code, _BODY)))
                for code, said in _PROBLEMS.items()
            ),
        ]
    }


def _refusal_of_grpc(filters: list[Json], error: AiosError) -> Json:
    """With the details that a service sends: a client reads the same error from both.

    As a whole answer of gRPC without a body: from any other answer gRPC-web's filter would make a status of its own.
    """
    details = base64.b64encode(to_status(error).SerializeToString()).decode()
    said = {"grpc-message": error.message, "grpc-status-details-bin": details}
    body = {**_text(""), "content_type": "application/grpc"}
    return _mapper(filters, body, {**_grpc(error.code.value), **said}) | {"status_code": 200}


def _refusal(filters: list[Json], said: _Refusal, form: Callable[..., Json] | None = None) -> Json:
    error = said.error
    headers = {}
    if error.retry_after is not None:
        headers["retry-after"] = f"{error.retry_after.total_seconds():.0f}"
    body = (form or _problem)(said.status, error.code.name, error.reason, error.message)
    return _mapper(filters, body, headers) | {"status_code": said.status}


def _problem(status: int, code: str, reason: str, detail: str) -> Json:
    """The members of the gateway's own problems. The trace id is in a header only: Envoy does not give it to bodies."""
    return {
        "content_type": "application/problem+json",
        "json_format": {
            "type": f"urn:aios:error:{reason.lower().replace('_', '-')}",
            "title": code.replace("_", " ").capitalize(),
            "status": status,
            "detail": detail,
            "instance": f"urn:aios:request:{REQUEST_ID}",
            "code": code,
            "reason": reason,
            "domain": "aios",
            "metadata": {},
        },
    }


def _openai(status: int, code: str, reason: str, detail: str) -> Json:
    """As the gateway's own errors there (`gateway.openai.replies`)."""
    kind = OPENAI_TYPES.get(status, "invalid_request_error")
    error = {"message": detail, "type": kind, "param": "", "code": reason.lower()}
    return {"content_type": "application/json", "json_format": {"error": error}}


def _text(text: str) -> Json:
    return {"text_format_source": {"inline_string": text}}


def _grpc(status: int) -> dict[str, str]:
    return {"grpc-status": str(status)}


def _mapper(filters: list[Json], body: Json, headers: dict[str, str] | None = None) -> Json:
    mapper: Json = {
        "filter": filters[0] if len(filters) == 1 else {"and_filter": {"filters": filters}},
        "body_format_override": body,
    }
    if headers:
        mapper["headers_to_add"] = [
            {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
            for key, value in headers.items()
        ]
    return mapper


def _status(code: int) -> Json:
    value = {"default_value": code, "runtime_key": f"aios.local_reply.{code}"}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}
