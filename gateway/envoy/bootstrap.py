"""Envoy's start-up file: who it is, where it finds the rest, and when it refuses work. Pure."""

from __future__ import annotations

from typing import Any

from gateway.envoy import limits

Json = dict[str, Any]

LATENCY_BUCKETS_MILLIS = (
    *(1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80),
    *(100, 150, 200, 250, 300, 400, 500, 750, 1000, 1500, 2000, 3000, 5000, 10_000, 30_000, 60_000),
)
"""A percentile between two of them is off by a third at most."""

_RUNTIME = {
    "tracing.opentelemetry.flush_interval_ms": 500,  # who looks at a trace has just made it
    # Two spans a call: the default of 5 would make one export of every third call. 500 are about 300 KiB.
    "tracing.opentelemetry.min_flush_spans": 500,
    # One connection's burst is worked off between the others' requests and the services' answers.
    "http.max_requests_per_io_cycle": 8,
}


def bootstrap(*, node_id: str, admin_socket: str, listeners_path: str, clusters_path: str) -> Json:
    """The bootstrap. The admin interface is a unix socket of mode 0600: it can stop Envoy and print its secrets."""
    return {
        "node": {"id": node_id, "cluster": "aios"},
        "admin": {"address": {"pipe": {"path": admin_socket, "mode": 0o600}}},
        "dynamic_resources": {
            "lds_config": {"path_config_source": {"path": listeners_path}, "resource_api_version": "V3"},
            "cds_config": {"path_config_source": {"path": clusters_path}, "resource_api_version": "V3"},
        },
        "layered_runtime": {
            "layers": [{"name": "static", "static_layer": _RUNTIME}, {"name": "admin", "admin_layer": {}}]
        },
        "stats_config": {
            "stats_tags": _deployment_tags(),
            "histogram_bucket_settings": [
                {"match": {"suffix": "upstream_rq_time"}, "buckets": list(LATENCY_BUCKETS_MILLIS)}
            ],
        },
        "stats_flush_interval": "1s",  # histograms are brought together then: gates see the last second
        "overload_manager": _overload_manager(),
    }


def _deployment_tags() -> list[Json]:
    """Project, deployment, revision and protocol as labels, so that one query gives a deployment's latencies."""
    tags = (("project", "~"), ("deployment", "~"), ("revision", "~"), ("protocol", r"\."))
    return [
        {"tag_name": f"aios.{tag}", "regex": rf"^cluster\.(?:[^~.]+~){{{position}}}(([^~.]+){end})"}
        for position, (tag, end) in enumerate(tags)
    ]


def _overload_manager() -> Json:
    heap = "envoy.resource_monitors.fixed_heap"
    connections = "envoy.resource_monitors.global_downstream_max_connections"
    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [
            {
                "name": heap,
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
                    "max_heap_size_bytes": limits.HEAP_BYTES_MAX,
                },
            },
            {
                "name": connections,
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.resource_monitors"
                    ".downstream_connections.v3.DownstreamConnectionsConfig",
                    "max_active_downstream_connections": limits.CONNECTIONS_MAX,
                },
            },
        ],
        "actions": [
            {
                "name": f"envoy.overload_actions.{action}",
                "triggers": [{"name": heap, "threshold": {"value": share}}],
            }
            for action, share in (("shrink_heap", 0.8), ("stop_accepting_requests", 0.95))
        ],
    }
