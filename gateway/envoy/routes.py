"""Which request goes where, who may send it, and how large it may be. Pure.

The listener denies everything; a route opens it. Routes change often (deployments, weights, revoked tokens), the
listener almost never: a change here touches no connection.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from aios.runtime import roles
from gateway.envoy import limits, retries
from gateway.envoy.clusters import GATEWAY_GRPC, GATEWAY_HTTP
from gateway.envoy.model import Backend, DeploymentRoute, Mirror, Snapshot

Json = dict[str, Any]

NAME = "public"

# Filled by the listener from the verified token and from the request's message; a client's own are dropped.
PROJECT_HEADER = "x-aios-project"
SUBJECT_HEADER = "x-aios-sub"
ROLE_HEADER = "x-aios-role"
TOKEN_ID_HEADER = "x-aios-token-id"  # noqa: S105  # a header's name
MODEL_HEADER = "x-aios-model"
REVISION_HEADER = "x-aios-revision"
TIMEOUT_HEADER = "x-aios-timeout"  # the one that clients may say: how long they wait
REFUSED_HEADER = "x-aios-refused"  # from a script to the answer: why it refuses
SCRIPT_OF_TENSORS = "tensors"  # see `scripts`
METADATA = "aios"  # of a route, for its spans
TRACE_HEADER = "x-aios-trace-id"
REQUEST_ID_HEADER, SAID_REQUEST_ID_HEADER = "x-request-id", "x-said-request-id"
ASKED_TRACE_HEADER = "x-client-trace-id"  # Envoy's own name for it
REQUEST_ID = f"%REQ({SAID_REQUEST_ID_HEADER}?{REQUEST_ID_HEADER})%"
"""What answers and services see of it: the client's, where it said one."""

PREDICT = "inference.GRPCInferenceService"
# Method -> field of its request that holds the model's name. Other methods of Triton administer it: closed.
PREDICT_METHODS = {
    "ModelInfer": "model_name",
    "ModelStreamInfer": "model_name",
    "ModelReady": "name",
    "ModelMetadata": "name",
    "ModelConfig": "name",
    "ModelStatistics": "name",
}
_INFER = "ModelInfer"
_SERVER_METHODS = ("ServerLive", "ServerReady", "ServerMetadata")  # of no model: the gateway answers
_HTTP_VERBS = ("generate", "generate_stream", "ready", "config", "stats")  # beside "infer"

_GRPC = ("application/grpc", "application/grpc+proto")
_GRPC_WEB = tuple(f"application/grpc-web{form}" for form in ("", "+proto", "-text", "-text+proto"))

HIGH = "HIGH"
"""The priority of what has room of its own in a service, whatever people ask of it."""
# A test compares both with the methods that stream.
GRPC_STREAMS = r".*/(Watch\w+|ReadJobLogs|Connect|PushLogs|ServerReflectionInfo)"
HTTP_STREAMS = r".*:(watch|logs|connect|pushLogs)"

ROLES = tuple(roles.ROLES)
PREDICTORS = tuple(role for role in ROLES if roles.allows(role, "predictions.create"))
ARTIFACT_ROLES = tuple(
    role for role in ROLES if roles.allows(role, "downloads.list") or roles.allows(role, "runs.track")
)
"""Who reads or writes artifacts: which of it, the trainer decides."""
REVOKED = "revoked"
"""The policy that refuses a revoked token, as Envoy names it when it does."""

ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts/"
"""Where the gateway takes bodies as streams."""
_SERVICES = {
    "/aios.scheduler.v1.": "scheduler",
    "/aios.data.v1.": "data",
    "/aios.trainer.v1.": "trainer",
    "/aios.inference.v1.": "inference",
    "/aios.identity.v1.": GATEWAY_GRPC,
    "/aios.telemetry.v1.": GATEWAY_GRPC,
    "/grpc.reflection.": GATEWAY_GRPC,
    "/opentelemetry.proto.collector.": GATEWAY_GRPC,
}

LIMITED = (*dict.fromkeys(_SERVICES.values()), GATEWAY_HTTP)
"""Clusters of services whose calls wait for each other."""

_FILTERS = "type.googleapis.com/envoy.extensions.filters.http"
_JWT, _RBAC, _REVOKED = "envoy.filters.http.jwt_authn", "envoy.filters.http.rbac", "aios.revoked"
_FAULT = "envoy.filters.http.fault"
_BUFFER, _CORS, _LUA = "envoy.filters.http.buffer", "envoy.filters.http.cors", "envoy.filters.http.lua"
_HOLD = "envoy.filters.http.ext_authz"
HELD_FIELDS = ("project", "deployment", "revision", "protocol")
"""What the gateway is told of a request that is to wait (`gateway.activation`)."""
_UNBUFFERED: Json = {_BUFFER: {"@type": f"{_FILTERS}.buffer.v3.BufferPerRoute", "disabled": True}}


def routes(snapshot: Snapshot) -> Json:
    """The one route configuration of the public listener. First match wins."""
    return {
        "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        "name": NAME,
        "request_headers_to_remove": [
            SAID_REQUEST_ID_HEADER,
            ASKED_TRACE_HEADER,
        ],  # after the virtual host's are added
        "virtual_hosts": [
            {
                "name": "public",
                "domains": ["*"],
                "request_headers_to_add": [_header(REQUEST_ID_HEADER, REQUEST_ID)],
                "routes": [
                    *_no_grpc(),
                    *_open(snapshot.open_paths),
                    *(route for item in _SERVICES.items() for route in _grpc_service(*item)),
                    *_predict_grpc(snapshot.deployments),
                    *_predict_http(snapshot.deployments),
                    _refuse({"prefix": "/", "grpc": {}}, 404, "No such service."),
                    _artifacts(),
                    *_by_priority(GATEWAY_HTTP, {"prefix": "/"}, HTTP_STREAMS),
                ],
                "typed_per_filter_config": {
                    _RBAC: allow(ROLES),
                    _REVOKED: _deny(snapshot.revoked),
                    _BUFFER: body_limit(limits.JSON_BODY_BYTES_MAX),
                    _CORS: _cors(snapshot.cors_origins),
                    _HOLD: {"@type": f"{_FILTERS}.ext_authz.v3.ExtAuthzPerRoute", "disabled": True},
                },
            }
        ],
    }


def allow(roles: Sequence[str]) -> Json:
    """Let requests pass whose verified token has one of these roles."""
    principals = [{"header": {"name": ROLE_HEADER, "string_match": {"exact": role}}} for role in roles]
    policies = {"roles": {"permissions": [{"any": True}], "principals": principals}}
    return {
        "@type": f"{_FILTERS}.rbac.v3.RBACPerRoute",
        "rbac": {"rules": {"action": "ALLOW", "policies": policies}},
    }


def body_limit(size: int) -> Json:
    """Hold the body back until it is whole, at most `size` bytes; a chunked one leaves with a content-length."""
    return {"@type": f"{_FILTERS}.buffer.v3.BufferPerRoute", "buffer": {"max_request_bytes": size}}


def _deny(revoked: frozenset[str]) -> Json:
    """Refuse revoked token ids by one hash look-up, however many there are."""

    def action(name: str, verb: str) -> Json:
        value = {"@type": "type.googleapis.com/envoy.config.rbac.v3.Action", "name": name, "action": verb}
        return {"action": {"name": name, "typed_config": value}}

    matcher: Json = {"on_no_match": action("valid", "ALLOW")}
    if revoked:
        matcher["matcher_tree"] = {
            "input": {
                "name": "token-id",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
                    "header_name": TOKEN_ID_HEADER,
                },
            },
            "exact_match_map": {"map": {token_id: action(REVOKED, "DENY") for token_id in sorted(revoked)}},
        }
    return {"@type": f"{_FILTERS}.rbac.v3.RBACPerRoute", "rbac": {"matcher": matcher}}


def _cors(origins: Sequence[str]) -> Json:
    return {
        "@type": f"{_FILTERS}.cors.v3.CorsPolicy",
        "allow_origin_string_match": [{"exact": origin} for origin in origins],
        "allow_methods": "GET, POST, PUT, PATCH, DELETE",
        "allow_headers": "authorization, content-type, x-grpc-web, x-user-agent, grpc-timeout, traceparent, "
        f"x-request-id, {TIMEOUT_HEADER}",
        "expose_headers": "grpc-status, grpc-message, grpc-status-details-bin, retry-after, x-request-id, "
        f"{TRACE_HEADER}, {REVISION_HEADER}",
        "max_age": "600",
    }


def _open(paths: Sequence[str]) -> list[Json]:
    """Routes that need no token: liveness of this door, gRPC health, and what the gateway's apps declare open."""
    opened: Json = {
        _JWT: {"@type": f"{_FILTERS}.jwt_authn.v3.PerRouteConfig", "disabled": True},
        _RBAC: {"@type": f"{_FILTERS}.rbac.v3.RBACPerRoute"},
    }
    healthz: Json = {
        "match": {"path": "/healthz"},
        "direct_response": {"status": 200, "body": {"inline_string": "ok\n"}},
        "typed_per_filter_config": opened,
    }
    health = _to(GATEWAY_GRPC, {"prefix": "/grpc.health.v1.Health/"}, HIGH)
    health["typed_per_filter_config"] = opened | _UNBUFFERED
    apps = [_to(GATEWAY_HTTP, {"prefix" if path.endswith("/") else "path": path}, HIGH) for path in paths]
    return [healthz, health, *(app | {"typed_per_filter_config": opened} for app in apps)]


def _no_grpc() -> list[Json]:
    """What is sent to a gRPC method and is no gRPC: its server would reset the stream, which says nothing.

    gRPC-web is matched twice: as it comes, for the sake of CORS, and as the gRPC that it is made into.
    """
    paths = {"safe_regex": {"regex": r"/(aios|grpc|inference|opentelemetry)[.][^?]+"}}
    post = _is(":method", "POST")
    wrong = [
        [_is_not(":method", "POST"), _is_not(":method", "OPTIONS")],
        [post, *(_is_not("content-type", kind) for kind in (*_GRPC, *_GRPC_WEB))],
        *([post, _is_not("te", "trailers"), _is("content-type", kind)] for kind in _GRPC),
    ]
    detail = "Send a POST of application/grpc, or application/grpc-web+proto."
    return [_refuse(paths | {"headers": headers}, 415, detail) for headers in wrong]


def _grpc_service(prefix: str, cluster: str) -> list[Json]:
    """A gRPC package. Its server knows its limits on messages and which method streams: nothing is held back here."""
    found = _by_priority(cluster, {"prefix": prefix}, GRPC_STREAMS)
    return [
        route | {"typed_per_filter_config": route.get("typed_per_filter_config", {}) | _UNBUFFERED}
        for route in found
    ]


def _artifacts() -> Json:
    """Files of any size on their way to the gateway, which writes them to disk as they come."""
    route = _to(GATEWAY_HTTP, {"prefix": ARTIFACTS})
    return route | {"typed_per_filter_config": {_RBAC: allow(ARTIFACT_ROLES), **_UNBUFFERED}}


def _by_priority(cluster: str, match: Json, streams: str) -> list[Json]:
    """Streams, which last, and the platform's own processes are not among the calls that wait for each other."""
    prefix = re.escape(match["prefix"])
    internal = [_to(cluster, match | {"headers": [_is(ROLE_HEADER, role)]}, HIGH) for role in roles.INTERNAL]
    return [
        *internal,
        _to(cluster, {"safe_regex": {"regex": f"{prefix}{streams}"}}, HIGH),
        _to(cluster, match) | {"typed_per_filter_config": _refusing(cluster)},
    ]


def refusal_key(cluster: str) -> str:
    """The runtime key of the share, in hundredths, of a service's calls that is refused by lot."""
    return f"aios.refused.{cluster}"


def _refusing(cluster: str) -> Json:
    """What was made to test clients by failing some of their calls fails those that would find no place."""
    abort = {"http_status": 429, "percentage": {"numerator": 0}}
    return {
        _FAULT: {
            "@type": f"{_FILTERS}.fault.v3.HTTPFault",
            "abort": abort,
            "abort_percent_runtime": refusal_key(cluster),
        }
    }


def _predict_grpc(deployments: Sequence[DeploymentRoute]) -> list[Json]:
    """By the model's name in the message. The listener matches twice: before it has read the message, and after."""
    server = {"safe_regex": {"regex": f"/{re.escape(PREDICT)}/({'|'.join(_SERVER_METHODS)})"}}
    path = {"safe_regex": {"regex": f"/{re.escape(PREDICT)}/({'|'.join(PREDICT_METHODS)})"}}
    infer = {"path": f"/{PREDICT}/{_INFER}"}
    filters = {_RBAC: allow(PREDICTORS), **_UNBUFFERED}
    found = []
    for deployment in deployments:
        headers = [_is(PROJECT_HEADER, deployment.project), _is(MODEL_HEADER, deployment.name)]
        for methods, repeatable in ((infer, True), (path, False)):
            action = {"timeout": "0s", "retry_policy": retries.elsewhere(repeatable=repeatable)}
            found.append(_predict(deployment, "grpc", {"headers": headers, **methods}, action, filters))
    unknown = _to_nowhere(path, filters)
    closed = _refuse(
        {"prefix": f"/{PREDICT}/"}, 404, "This method administers the model server and is closed."
    )
    return [_to(GATEWAY_GRPC, server), *found, unknown, closed]


def _predict_http(deployments: Sequence[DeploymentRoute]) -> list[Json]:
    """By the path's model name. Only whole, known paths: no alias leads to Triton's administration."""
    filters = {_RBAC: allow(PREDICTORS), _BUFFER: body_limit(limits.TENSOR_BODY_BYTES_MAX)}
    server = {"safe_regex": {"regex": "/v2(/health/(live|ready))?/?"}}
    # Unpacked inside the model server, a compressed body would grow past every limit kept here.
    packed = {"prefix": "/v2/", "headers": [_is("content-encoding", "identity") | {"invert_match": True}]}
    tensors = filters | _script(SCRIPT_OF_TENSORS)
    found = []
    for deployment in deployments:
        model = rf"/v2/models/{re.escape(deployment.name)}(/versions/[0-9]+)?"
        for verbs, repeatable in (("/infer", True), (rf"(/({'|'.join(_HTTP_VERBS)}))?", False)):
            match = {
                "safe_regex": {"regex": model + verbs},
                "headers": [_is(PROJECT_HEADER, deployment.project)],
            }
            action = {
                "timeout": f"{limits.PREDICT_SECONDS}s",
                "retry_policy": retries.elsewhere(repeatable=repeatable),
            }
            found.append(_predict(deployment, "http", match, action, tensors))
    return [
        _to(GATEWAY_HTTP, server),
        _refuse(packed, 415, "Send the body without content-encoding."),
        *found,
        _to_nowhere({"prefix": "/v2/"}, filters),
    ]


def _predict(deployment: DeploymentRoute, protocol: str, match: Json, action: Json, filters: Json) -> Json:
    if not deployment.serving:
        return _refuse(match, 503, f"Deployment {deployment.name} has no revision that serves yet.")
    weighted = [
        {
            "name": deployment.cluster_name(backend, protocol),
            "weight": backend.weight,
            "response_headers_to_add": [_header(REVISION_HEADER, backend.revision)],
            **(_held(deployment, backend, protocol) if backend.asleep else {}),
        }
        for backend in deployment.serving
    ]
    weighting: Json = {"clusters": weighted}
    if deployment.affinity_header:
        # Without the header, and so without a hash, Envoy draws.
        by_header = {"header": {"header_name": deployment.affinity_header}}
        action, weighting["use_hash_policy"] = action | {"hash_policy": [by_header]}, True
    if any(backend.asleep for backend in deployment.serving):
        action = action | {"retry_policy": retries.wake()}
    if deployment.mirror:
        action = action | {"request_mirror_policies": [_mirror(deployment, deployment.mirror, protocol)]}
    return {
        "match": match,
        "route": _action(action | {"weighted_clusters": weighting}),
        # Whoever wrote the model does not get its callers' tokens.
        "request_headers_to_remove": ["authorization"],
        "tracing": {"operation": f"predict {deployment.name}"},
        "metadata": {"filter_metadata": {METADATA: {"deployment": deployment.name}}},
        "typed_per_filter_config": filters,
        "request_body_buffer_limit": limits.TENSOR_BODY_BYTES_MAX,
    }


def _held(deployment: DeploymentRoute, backend: Backend, protocol: str) -> Json:
    """Ask the gateway before the request goes on: it answers once there is somebody to go to."""
    told = (deployment.project, deployment.name, backend.revision, protocol)
    settings = {"context_extensions": dict(zip(HELD_FIELDS, told, strict=True))}
    held = {"@type": f"{_FILTERS}.ext_authz.v3.ExtAuthzPerRoute", "check_settings": settings}
    return {"typed_per_filter_config": {_HOLD: held}}


def _script(name: str) -> Json:
    return {_LUA: {"@type": f"{_FILTERS}.lua.v3.LuaPerRoute", "name": name}}


def _mirror(deployment: DeploymentRoute, mirror: Mirror, protocol: str) -> Json:
    share = {"numerator": round(mirror.percent * 10_000), "denominator": "MILLION"}
    return {
        "cluster": deployment.cluster_name(mirror.backend, protocol),
        "runtime_fraction": {"default_value": share},
        "disable_shadow_host_suffix_append": True,
    }


def _to(cluster: str, match: Json, priority: str = "DEFAULT") -> Json:
    action = {"cluster": cluster, "timeout": "0s", "priority": priority, "retry_policy": retries.hold()}
    return {"match": match, "route": _action(action)}


def _action(action: Json) -> Json:
    """A silent stream ends. A deadline is the service's to keep, which knows it from grpc-timeout and answers
    DEADLINE_EXCEEDED: Envoy could only reset a stream that has begun, which clients read as INTERNAL."""
    return action | {"idle_timeout": f"{limits.STREAM_IDLE_SECONDS}s"}


def _refuse(match: Json, status: int, detail: str) -> Json:
    """Answer here."""
    return {"match": match, "direct_response": {"status": status, "body": {"inline_string": detail}}}


def _to_nowhere(match: Json, filters: Json) -> Json:
    """Where predictions are matched first, while their project and model are unknown, and stay when nothing has them.

    A route to a cluster that does not exist, because a direct response would neither answer a CORS preflight nor
    let a message larger than the listener's buffer be read for its model's name.
    """
    return {
        "match": match,
        "route": {"cluster": "none", "cluster_not_found_response_code": "NOT_FOUND"},
        "typed_per_filter_config": filters,
        "request_body_buffer_limit": limits.TENSOR_BODY_BYTES_MAX,
    }


def _is(header: str, value: str) -> Json:
    return {"name": header, "string_match": {"exact": value}}


def _is_not(header: str, value: str) -> Json:
    return _is(header, value) | {"invert_match": True, "treat_missing_header_as_empty": True}


def _header(name: str, value: str) -> Json:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
