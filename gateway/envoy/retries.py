"""When Envoy asks again by itself, so that a client need not. Pure.

What was never sent may always be asked again. What was sent and not answered may have been done: only a prediction,
which has no effect, is asked again. What was refused is never asked again: that would double an overload.
"""

from __future__ import annotations

from typing import Any

from gateway.envoy import limits

Json = dict[str, Any]

_UNSENT = "reset-before-request,connect-failure,refused-stream"


def hold() -> Json:
    """For a service, which is one process: a call that finds it restarting waits until it is back."""
    return {
        # Our servers end so only what they have not begun (`aios.runtime.server.Server.stop`).
        "retry_on": f"{_UNSENT},cancelled",
        "num_retries": limits.HOLD_RETRIES,
        "retry_back_off": {
            "base_interval": f"{limits.HOLD_BACKOFF_SECONDS}s",
            "max_interval": f"{limits.HOLD_BACKOFF_SECONDS_MAX}s",
        },
    }


def wake() -> Json:
    """For a deployment at zero: a prediction, which was sent to nobody, waits until somebody takes it."""
    return {
        "retry_on": _UNSENT,
        "num_retries": limits.WAKE_RETRIES,
        "retry_back_off": {
            "base_interval": f"{limits.WAKE_BACKOFF_SECONDS}s",
            "max_interval": f"{limits.WAKE_BACKOFF_SECONDS}s",
        },
    }


def elsewhere(*, repeatable: bool) -> Json:
    """For a deployment: another replica is asked.

    Args:
        repeatable: It may run twice: one stateless inference, whole before it was sent. No stream is.
    """
    policy: Json = {
        "retry_on": _UNSENT,
        "num_retries": limits.RETRIES,
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3"
                    ".PreviousHostsPredicate"
                },
            }
        ],
        "host_selection_retry_max_attempts": 3,
    }
    if repeatable:
        # A model server that ends lets go of its model first: it knows none (404, NOT_FOUND) or takes nothing more
        # (503, UNAVAILABLE) while others do.
        policy["retry_on"] += ",reset,retriable-status-codes,retriable-headers"
        policy["retriable_status_codes"] = [404, 503]
        policy["retriable_headers"] = [
            {"name": "grpc-status", "string_match": {"exact": code}} for code in ("5", "14")
        ]
    return policy
