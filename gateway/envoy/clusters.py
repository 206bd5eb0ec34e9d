"""Upstreams: one cluster per service, two per revision (Triton's HTTP and gRPC ports), and their endpoints. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from gateway.envoy import limits
from gateway.envoy.model import Address, Backend, Inside, Passage, Services

Json = dict[str, Any]

GATEWAY_GRPC = "gateway-grpc"
GATEWAY_HTTP = "gateway-http"
TELEMETRY = "telemetry"
ACTIVATOR = "activator"
"""The gateway, asked by Envoy itself."""
NOBODY = Address("127.0.0.1", 1)
"""Where nobody listens, and a connection is refused at once."""
TELEMETRY_TOKEN = "telemetry-token"  # noqa: S105  # the secret's name, not its value

_HTTP_OPTIONS = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def clusters(
    services: Services,
    replicas: Mapping[str, str],
    asleep: Collection[str] = (),
    *,
    endpoints_dir: str,
    token_path: str,
    peer: Inside | None = None,
    passages: Sequence[Passage] = (),
) -> list[Json]:
    """All clusters, services first.

    Args:
        replicas: Protocol ("http" or "grpc") by name of the clusters that read their endpoints from a file.
        asleep: Those of them that have no replica by choice.
        endpoints_dir: Where those files are.
        token_path: Where the tracer's token is.
        peer: Who Envoy is to the services, where these speak TLS.
    """
    telemetry = services.collector or services.gateway_grpc
    as_envoy = _SERVICE_HTTP2 | {"http_filters": _bearer_from_file(token_path)}
    return [
        _service("scheduler", services.scheduler, _SERVICE_HTTP2, peer),
        _service("data", services.data, _SERVICE_HTTP2, peer),
        _service("trainer", services.trainer, _SERVICE_HTTP2, peer),
        _service("inference", services.inference, _SERVICE_HTTP2, peer),
        _service(GATEWAY_GRPC, services.gateway_grpc, _SERVICE_HTTP2, peer),
        _service(GATEWAY_HTTP, services.gateway_http, _http1(limits.APP_IDLE_SECONDS), peer),
        # A collector that an operator names is none of ours.
        _service(TELEMETRY, telemetry, as_envoy, None if services.collector else peer),
        _service(ACTIVATOR, services.gateway_grpc, as_envoy, peer),
        *(_devices(each, peer) for each in passages),
        *(
            _asleep(name, replicas[name])
            if name in asleep
            else _replicas(name, replicas[name], f"{endpoints_dir}/{name}.json")
            for name in sorted(replicas)
        ),
    ]


def endpoints(name: str, backend: Backend, protocol: str) -> Json:
    """The replicas of one cluster. Health is always asked of the HTTP port: one check decides for both doors."""
    return {
        "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": name,
        "endpoints": [
            {
                "lb_endpoints": [
                    {
                        "endpoint": {
                            "address": _socket(replica.address(protocol)),
                            "health_check_config": {"port_value": replica.http_port},
                        }
                    }
                    for replica in backend.replicas
                ]
            }
        ],
    }


def _service(name: str, address: Address, http_options: Json, peer: Inside | None) -> Json:
    return {
        **({"transport_socket": _as_peer(peer, address.host)} if peer else {}),
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": name,
        "dns_lookup_family": "V4_PREFERRED",
        "type": "STATIC" if is_ip(address.host) else "STRICT_DNS",
        "connect_timeout": f"{limits.CONNECT_SECONDS}s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _socket(address)}}]}],
        },
        "typed_extension_protocol_options": {_HTTP_OPTIONS.rsplit("/")[-1]: http_options},
        "circuit_breakers": _circuit_breakers(limits.CALLS_AT_ONCE, limits.HELD_MAX),
    }


def _devices(passage: Passage, peer: Inside | None) -> Json:
    address = passage.upstream
    thresholds = [{"max_connections": limits.DEVICES_MAX}]
    return {
        **({"transport_socket": _as_peer(peer, address.host)} if peer else {}),
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": passage.name,
        "dns_lookup_family": "V4_PREFERRED",
        "type": "STATIC" if is_ip(address.host) else "STRICT_DNS",
        "connect_timeout": f"{limits.CONNECT_SECONDS}s",
        "load_assignment": {
            "cluster_name": passage.name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _socket(address)}}]}],
        },
        "circuit_breakers": {"thresholds": thresholds},
    }


def _as_peer(peer: Inside, host: str) -> Json:
    """TLS with our certificate, to a server that has one of the same authority for `host`."""
    kind = "IP_ADDRESS" if is_ip(host) else "DNS"
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": {
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                "tls_certificates": [peer.pem.as_json()],
                "validation_context": {
                    "trusted_ca": {"filename": peer.authority},
                    "match_typed_subject_alt_names": [{"san_type": kind, "matcher": {"exact": host}}],
                },
            },
            **({} if is_ip(host) else {"sni": host}),
        },
    }


def _replicas(name: str, protocol: str, endpoints_path: str) -> Json:
    return {
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {
            "service_name": name,
            "eds_config": {"path_config_source": {"path": endpoints_path}, "resource_api_version": "V3"},
        },
        "connect_timeout": f"{limits.CONNECT_SECONDS}s",
        "lb_policy": "LEAST_REQUEST",
        # A replica that just started gets traffic after its first good answer, and one that is gone leaves at once.
        "common_lb_config": {"ignore_new_hosts_until_first_hc": True},
        "ignore_health_on_host_removal": True,
        "typed_extension_protocol_options": {_HTTP_OPTIONS.rsplit("/")[-1]: _replica_options(protocol)},
        "health_checks": [_health_check()],
        "outlier_detection": _outlier_detection(),
        "circuit_breakers": _circuit_breakers(limits.PREDICTIONS_AT_ONCE, limits.RETRIES_CONCURRENT_MIN),
    }


def _asleep(name: str, protocol: str) -> Json:
    """A revision without a replica: what comes is refused, and asked again until the cluster is another one."""
    return {
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": name,
        "type": "STATIC",
        "connect_timeout": f"{limits.CONNECT_SECONDS}s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _socket(NOBODY)}}]}],
        },
        "typed_extension_protocol_options": {_HTTP_OPTIONS.rsplit("/")[-1]: _replica_options(protocol)},
        "circuit_breakers": _circuit_breakers(limits.PREDICTIONS_AT_ONCE, limits.HELD_MAX),
    }


def _health_check() -> Json:
    return {
        "http_health_check": {"path": "/v2/health/ready"},
        "interval": f"{limits.HEALTH_INTERVAL_SECONDS}s",
        # One that starts or recovers is in use within a second.
        "no_traffic_interval": f"{limits.HEALTH_RETRY_SECONDS}s",
        "unhealthy_interval": f"{limits.HEALTH_RETRY_SECONDS}s",
        "timeout": f"{limits.HEALTH_TIMEOUT_SECONDS}s",
        "unhealthy_threshold": 2,
        "healthy_threshold": 1,
    }


def _outlier_detection() -> Json:
    # A model that answers 500 to one client's tensors must not lose its replicas for all: only failures to
    # connect and answers of a gateway (502, 503, 504) count.
    return {
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": 3,
        "enforcing_consecutive_local_origin_failure": 100,
        "consecutive_gateway_failure": 5,
        "enforcing_consecutive_gateway_failure": 100,
        "enforcing_consecutive_5xx": 0,
        "enforcing_success_rate": 0,
        "enforcing_local_origin_success_rate": 0,
        "interval": "1s",
        "base_ejection_time": f"{limits.EJECTION_SECONDS}s",
        "max_ejection_percent": 50,
    }


def _circuit_breakers(requests_max: int, retries_min: int) -> Json:
    """What is beyond is refused at once. Routes of high priority (`routes.HIGH`) do not count among `requests_max`."""
    budget = {
        "budget_percent": {"value": limits.RETRY_BUDGET_PERCENT},
        "min_retry_concurrency": retries_min,
    }
    thresholds = [
        {
            "priority": priority,
            "max_connections": limits.UPSTREAM_CONNECTIONS_MAX,
            "max_pending_requests": limits.UPSTREAM_REQUESTS_MAX,
            "max_requests": requests,
            "retry_budget": budget,
        }
        for priority, requests in (("DEFAULT", requests_max), ("HIGH", limits.UPSTREAM_REQUESTS_MAX))
    ]
    return {"thresholds": thresholds}


def _http2(stream_window: int, connection_window: int) -> Json:
    http2 = {
        # Callers share a connection, and gRPC's servers remember a header that they could not read for whoever
        # sends that header next: nothing of one request may stay for another.
        "hpack_table_size": 0,
        "initial_stream_window_size": stream_window,
        "initial_connection_window_size": connection_window,
    }
    return {"@type": _HTTP_OPTIONS, "explicit_http_config": {"http2_protocol_options": http2}}


_SERVICE_HTTP2 = _http2(limits.SERVICE_STREAM_WINDOW_BYTES, limits.SERVICE_CONNECTION_WINDOW_BYTES)
_REPLICA_HTTP2 = _http2(limits.HTTP2_STREAM_WINDOW_BYTES, limits.HTTP2_CONNECTION_WINDOW_BYTES)


def _replica_options(protocol: str) -> Json:
    return _REPLICA_HTTP2 if protocol == "grpc" else _http1(limits.CONNECTION_IDLE_SECONDS)


def _http1(idle_seconds: int) -> Json:
    return {
        "@type": _HTTP_OPTIONS,
        "common_http_protocol_options": {"idle_timeout": f"{idle_seconds}s"},
        "explicit_http_config": {"http_protocol_options": {}},
    }


def _bearer_from_file(token_path: str) -> list[Json]:
    """Add `authorization: Bearer` from a watched secret: a fresh token changes neither listener nor cluster."""
    source = {"path_config_source": {"path": token_path}, "resource_api_version": "V3"}
    return [
        {
            "name": "envoy.filters.http.credential_injector",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.credential_injector.v3.CredentialInjector",
                "overwrite": True,
                "credential": {
                    "name": "envoy.http.injected_credentials.generic",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.http.injected_credentials.generic.v3.Generic",
                        "credential": {"name": TELEMETRY_TOKEN, "sds_config": source},
                        "header": "authorization",
                        "header_value_prefix": "Bearer ",
                    },
                },
            },
        },
        {
            "name": "envoy.filters.http.upstream_codec",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec"
            },
        },
    ]


def token_secret(token: str) -> Json:
    """The secret that `clusters` tells the tracer to read."""
    return {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        "name": TELEMETRY_TOKEN,
        "generic_secret": {"secret": {"inline_string": token}},
    }


def _socket(address: Address) -> Json:
    return {"socket_address": {"address": address.host, "port_value": address.port}}


def is_ip(host: str) -> bool:
    """Whether it is an address; else it is a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
