"""The one public listener: HTTP/1.1, HTTP/2, gRPC and gRPC-web on one port, and the filters every request passes. Pure."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Sequence
from typing import Any

from google.protobuf import descriptor_pb2

from gateway.envoy import limits, replies, routes, scripts
from gateway.envoy.clusters import ACTIVATOR, TELEMETRY, is_ip
from gateway.envoy.model import Address, Inside, Passage, Pem, Tls

Json = dict[str, Any]

NAME = "public"
ALL_ADDRESSES = "0.0.0.0"  # noqa: S104  # of a container
_FILTERS = "type.googleapis.com/envoy.extensions.filters.http"


def listeners(
    *,
    address: Address,
    jwks: str,
    routes_path: str,
    calls_per_second: int = limits.CALLS_PER_SECOND,
    tls: Tls | None = None,
    peer: Inside | None = None,
    passages: Sequence[Passage] = (),
) -> list[Json]:
    """The door, and where there is a certificate the same again over TLS: jobs use the first, the outside the second.

    Args:
        address: With a name for a host, Envoy is in a container of that name: it listens on all of its addresses, and
            whoever publishes its port decides who reaches it.
        calls_per_second: Of one token.
        peer: With it the first door speaks TLS as well. It asks for no certificate: jobs have a token and no more.

    Raises:
        ValueError: `address` is neither a name nor loopback, without TLS: tokens would travel in the clear. So would
            passwords of devices, at an address of `passages` that is not loopback.
    """
    host = address.host if is_ip(address.host) else ALL_ADDRESSES
    if peer is None and is_ip(address.host) and not ipaddress.ip_address(host).is_loopback:
        raise ValueError(
            f"listening on {address.host} needs TLS: set AIOS_TLS_ADDRESS, and keep this on 127.0.0.1"
        )
    manager = _connection_manager(routes_path, _filters(jwks, calls_per_second))
    chain: Json = {"filters": [{"name": "http", "typed_config": manager}]}
    inside = {"transport_socket": _tls(peer.pem)} if peer else {}
    doors = [_listener(NAME, Address(host, address.port), chain | inside)]
    if tls is not None:
        doors.append(_listener(f"{NAME}-tls", tls.address, chain | {"transport_socket": _tls(tls.pem)}))
    return [*doors, *map(_for_devices, passages)]


def _for_devices(passage: Passage) -> Json:
    if passage.pem is None and not (
        is_ip(passage.address.host) and ipaddress.ip_address(passage.address.host).is_loopback
    ):
        raise ValueError(
            f"listening for devices on {passage.address.host} needs TLS: set AIOS_TLS_CERTIFICATE_FILE and "
            f"AIOS_TLS_KEY_FILE, or AIOS_{passage.name.upper()}_ADDRESS=127.0.0.1:{passage.address.port}"
        )
    network = "type.googleapis.com/envoy.extensions.filters.network"
    bounded = {
        "@type": f"{network}.connection_limit.v3.ConnectionLimit",
        "stat_prefix": passage.name,
        "max_connections": limits.DEVICES_MAX,
    }
    proxy = {
        "@type": f"{network}.tcp_proxy.v3.TcpProxy",
        "stat_prefix": passage.name,
        "cluster": passage.name,
        "idle_timeout": f"{limits.DEVICE_IDLE_SECONDS}s",
    }
    chain: Json = {
        "filters": [
            {"name": "connection_limit", "typed_config": bounded},
            {"name": "tcp_proxy", "typed_config": proxy},
        ]
    }
    if passage.pem is not None:
        chain["transport_socket"] = _tls(passage.pem, protocols=())
    return _listener(passage.name, passage.address, chain)


def _listener(name: str, address: Address, chain: Json) -> Json:
    return {
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": name,
        "address": {"socket_address": {"address": address.host, "port_value": address.port}},
        "per_connection_buffer_limit_bytes": limits.CONNECTION_BUFFER_BYTES,
        "filter_chains": [chain],
    }


def _connection_manager(routes_path: str, filters: list[Json]) -> Json:
    return {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": NAME,
        "codec_type": "AUTO",
        "rds": {
            "route_config_name": routes.NAME,
            "config_source": {"path_config_source": {"path": routes_path}, "resource_api_version": "V3"},
        },
        "http_filters": filters,
        "local_reply_config": replies.local_replies(),
        "tracing": _tracing(),
        "server_name": "aios",
        "use_remote_address": True,
        "early_header_mutation_extensions": [_drop_internal_headers()],
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "max_request_headers_kb": limits.HEADERS_KIB_MAX,
        "request_headers_timeout": f"{limits.HEADERS_SECONDS}s",
        "stream_idle_timeout": f"{limits.STREAM_IDLE_SECONDS}s",
        "common_http_protocol_options": {
            "max_headers_count": limits.HEADERS_MAX,
            "idle_timeout": f"{limits.CONNECTION_IDLE_SECONDS}s",
        },
        "http2_protocol_options": {
            "max_concurrent_streams": limits.HTTP2_STREAMS_MAX,
            "initial_stream_window_size": limits.HTTP2_STREAM_WINDOW_BYTES,
            "initial_connection_window_size": limits.HTTP2_CONNECTION_WINDOW_BYTES,
        },
        "request_id_extension": {
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig",
                "pack_trace_reason": False,
            }
        },
    }


def _filters(jwks: str, calls_per_second: int) -> list[Json]:
    """In order. Who you are comes before what you send, and nothing is read from a body that may not be sent."""
    return [
        _filter("header_mutation", "header_mutation.v3.HeaderMutation", **_name_the_trace()),
        _filter("cors", "cors.v3.Cors"),
        _filter("grpc_web", "grpc_web.v3.GrpcWeb"),
        _filter("jwt_authn", "jwt_authn.v3.JwtAuthentication", **_jwt(jwks)),
        _filter("rbac", "rbac.v3.RBAC") | {"name": "aios.revoked"},
        _filter("rbac", "rbac.v3.RBAC", rules={"action": "ALLOW"}),
        _filter("local_ratelimit", "local_ratelimit.v3.LocalRateLimit", **_rate_limit(calls_per_second)),
        _filter("fault", "fault.v3.HTTPFault"),  # of the services' routes
        _filter("buffer", "buffer.v3.Buffer", max_request_bytes=limits.JSON_BODY_BYTES_MAX),
        _filter(
            "grpc_field_extraction", "grpc_field_extraction.v3.GrpcFieldExtractionConfig", **_extraction()
        ),
        _filter("lua", "lua.v3.Lua", **scripts.scripts()),
        _filter("ext_authz", "ext_authz.v3.ExtAuthz", **_hold()),
        # Of each upstream, how its gRPC answers ended: HTTP says 200 to all of them.
        _filter("grpc_stats", "grpc_stats.v3.FilterConfig"),
        _filter("router", "router.v3.Router", suppress_envoy_headers=True),
    ]


def _filter(name: str, message: str, **config: Any) -> Json:
    return {
        "name": f"envoy.filters.http.{name}",
        "typed_config": {"@type": f"{_FILTERS}.{message}", **config},
    }


def _name_the_trace() -> Json:
    """First in the chain, so that refusals of later filters carry the trace's id too."""
    named = _write(routes.TRACE_HEADER, "%TRACE_ID%")
    asked = _write(routes.REQUEST_ID_HEADER, routes.REQUEST_ID)
    return {"mutations": {"response_mutations": [named, asked]}}


def _jwt(jwks: str) -> Json:
    claims = {
        "project": routes.PROJECT_HEADER,
        "sub": routes.SUBJECT_HEADER,
        "role": routes.ROLE_HEADER,
        "jti": routes.TOKEN_ID_HEADER,
    }
    provider = {
        "issuer": "aios",
        "audiences": ["aios"],
        "local_jwks": {"inline_string": jwks},
        # Named, because the default also takes a token from the URL, where logs and proxies keep it.
        "from_headers": [{"name": "authorization", "value_prefix": "Bearer "}],
        "forward": True,  # the service verifies again
        "require_expiration": True,
        "clock_skew_seconds": limits.CLOCK_SKEW_SECONDS,
        # A token seen before is looked up, not verified again, until it expires; revocation is the next filter's.
        "jwt_cache_config": {"jwt_cache_size": limits.TOKENS_CACHED_MAX},
        "claim_to_headers": [
            {"claim_name": claim, "header_name": header} for claim, header in claims.items()
        ],
        "clear_route_cache": True,
    }
    return {
        "providers": {"aios": provider},
        "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "aios"}}],
        "bypass_cors_preflight": True,
    }


def _rate_limit(calls_per_second: int) -> Json:
    """A bucket for each token, and one for all that comes without: one client's loop leaves room for the others."""
    if calls_per_second < 1:
        raise ValueError(f"calls_per_second must be at least 1, not {calls_per_second}")
    bucket = {
        "max_tokens": calls_per_second,
        "tokens_per_fill": calls_per_second,
        "fill_interval": "1s",
    }
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    by_token = {"header_name": routes.TOKEN_ID_HEADER, "descriptor_key": "token", "skip_if_absent": True}
    return {
        "stat_prefix": NAME,
        "token_bucket": bucket,
        "descriptors": [{"entries": [{"key": "token"}], "token_bucket": bucket}],
        "max_dynamic_descriptors": limits.CALLS_TOKENS_MAX,
        "always_consume_default_token_bucket": False,
        "rate_limits": [{"actions": [{"request_headers": by_token}]}],
        "filter_enabled": always,
        "filter_enforced": always,
        "rate_limited_as_resource_exhausted": True,
    }


def _hold() -> Json:
    """Routes turn it on for revisions at zero. Who cannot be asked holds up nobody: then Envoy tries by itself."""
    return {
        "grpc_service": {
            "envoy_grpc": {"cluster_name": ACTIVATOR},
            "timeout": f"{limits.ACTIVATION_SECONDS}s",
        },
        "transport_api_version": "V3",
        "failure_mode_allow": True,
        # The gateway needs to know whom it is for, which the route says, and nothing of the request.
        "allowed_headers": {"patterns": [{"exact": routes.PROJECT_HEADER}]},
    }


def _extraction() -> Json:
    methods: Json = {
        f"{routes.PREDICT}.{method}": {"request_field_extractions": {field: {}}}
        for method, field in routes.PREDICT_METHODS.items()
    }
    descriptors = base64.b64encode(predict_descriptors().SerializeToString()).decode()
    return {"descriptor_set": {"inline_bytes": descriptors}, "extractions_by_method": methods}


def predict_descriptors() -> descriptor_pb2.FileDescriptorSet:
    """Of the Open Inference Protocol, only what routing reads: each method's first field, the model's name.

    Fields that are not described are passed over, so Envoy never parses a tensor.
    """
    file = descriptor_pb2.FileDescriptorProto(name="inference.proto", package="inference", syntax="proto3")
    file.message_type.add(name="Ignored")
    service = file.service.add(name="GRPCInferenceService")
    for method, field in routes.PREDICT_METHODS.items():
        request = f"{method.replace('Stream', '')}Request"
        service.method.add(name=method, input_type=f".inference.{request}", output_type=".inference.Ignored")
        if request not in [message.name for message in file.message_type]:
            file.message_type.add(name=request).field.add(
                name=field,
                number=1,
                type=descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
                label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL,
            )
    return descriptor_pb2.FileDescriptorSet(file=[file])


def _drop_internal_headers() -> Json:
    """Clients say neither who they are nor how Envoy retries. `_` is how some frameworks spell `-`.

    How long they wait they may say: that header is carried past the others' end. A request's id they may choose, too,
    but Envoy goes by one of its own: it decides whether a request is traced, and theirs need not be a UUID.
    """
    prefixes = ("x-aios-", "x_aios_", "x-envoy-")
    mutations: list[Json] = [
        _copy(routes.TIMEOUT_HEADER, "x-said-timeout"),
        *({"remove_on_match": {"key_matcher": {"prefix": prefix}}} for prefix in prefixes),
        _copy("x-said-timeout", routes.TIMEOUT_HEADER),
        {"remove": "x-said-timeout"},
        {"remove": routes.SAID_REQUEST_ID_HEADER},
        _copy(routes.REQUEST_ID_HEADER, routes.SAID_REQUEST_ID_HEADER),
        {"remove": routes.REQUEST_ID_HEADER},
        # Whoever asks for a trace has it, whatever share of the others is traced.
        {"remove": routes.ASKED_TRACE_HEADER},
        _copy("traceparent", routes.ASKED_TRACE_HEADER),
    ]
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
            "mutations": mutations,
        },
    }


def _copy(header: str, to: str) -> Json:
    return _write(to, f"%REQ({header})%")


def _write(header: str, value: str) -> Json:
    written = {"header": {"key": header, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    return {"append": written}


def _tracing() -> Json:
    """Every request is traced; a client that sends `traceparent` with sampling off is obeyed."""
    tags: list[Json] = [
        {"tag": "aios.project", "request_header": {"name": routes.PROJECT_HEADER}},
        {"tag": "aios.subject", "request_header": {"name": routes.SUBJECT_HEADER}},
        {
            "tag": "aios.deployment",
            "metadata": {
                "kind": {"route": {}},
                "metadata_key": {"key": routes.METADATA, "path": [{"key": "deployment"}]},
            },
        },
    ]
    return {
        "random_sampling": {"value": 100},
        "spawn_upstream_span": True,
        # Without the query, which may say more than a trace should. A route with a name of its own wins.
        "operation": "%REQ(:METHOD)% %PATH(NQ:PATH)%",
        "upstream_operation": "to %UPSTREAM_CLUSTER%",
        "custom_tags": tags,
        "provider": {
            "name": "envoy.tracers.opentelemetry",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
                "service_name": "envoy",
                "grpc_service": {"envoy_grpc": {"cluster_name": TELEMETRY}, "timeout": "2s"},
            },
        },
    }


def _tls(pem: Pem, protocols: Sequence[str] = ("h2", "http/1.1")) -> Json:
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                "tls_certificates": [pem.as_json()],
                "alpn_protocols": list(protocols),
            },
        },
    }
