"""Protos to policies, figures and counts, and back."""

import math

from aios.inference.v1 import deployment_pb2, inference_service_pb2
from services.inference.monitor import Counts
from services.inference.policies import Gates, Kind, PayloadLog, Rollout, Scaling

_Proto = deployment_pb2.RolloutPolicy
_KINDS = {
    _Proto.KIND_UNSPECIFIED: Kind.ROLLING,
    _Proto.KIND_ROLLING: Kind.ROLLING,
    _Proto.KIND_BLUE_GREEN: Kind.BLUE_GREEN,
    _Proto.KIND_CANARY: Kind.CANARY,
    _Proto.KIND_SHADOW: Kind.SHADOW,
}


def rollout_from_proto(policy: deployment_pb2.RolloutPolicy) -> Rollout:
    """The policy as sent, unchecked."""
    gates = policy.gates
    return Rollout(
        kind=_KINDS.get(policy.kind, Kind.ROLLING),
        steps=tuple(policy.steps),
        step_seconds=policy.step_seconds,
        gates=Gates(
            gates.requests_min,
            gates.errors_percent_max,
            gates.p99_millis_max,
            gates.slowdown_max,
            dict(gates.quality_min),
        ),
        mirror_percent=policy.mirror_percent,
        affinity_header=policy.affinity_header,
    )


def rollout_to_proto(policy: Rollout) -> deployment_pb2.RolloutPolicy | None:
    """The policy as callers see it; none where it is the usual one."""
    if policy == Rollout():
        return None
    gates = policy.gates
    return deployment_pb2.RolloutPolicy(
        kind=_Proto.Kind.Value(f"KIND_{policy.kind.value}"),
        steps=policy.steps,
        step_seconds=policy.step_seconds,
        gates=deployment_pb2.Gates(
            requests_min=gates.requests_min,
            errors_percent_max=gates.errors_percent_max,
            p99_millis_max=gates.p99_millis_max,
            slowdown_max=gates.slowdown_max,
            quality_min=gates.quality_min,
        ),
        mirror_percent=policy.mirror_percent,
        affinity_header=policy.affinity_header,
    )


def scaling_from_proto(policy: deployment_pb2.ScalingPolicy) -> Scaling:
    """The policy as sent, unchecked."""
    return Scaling(
        policy.min_replicas,
        policy.max_replicas,
        policy.target_concurrency,
        policy.target_p99_millis,
        policy.idle_seconds,
    )


def scaling_to_proto(policy: Scaling) -> deployment_pb2.ScalingPolicy | None:
    """The policy as callers see it; none where there is none."""
    if policy == Scaling():
        return None
    return deployment_pb2.ScalingPolicy(
        min_replicas=policy.minimum,
        max_replicas=policy.maximum,
        target_concurrency=policy.concurrency,
        target_p99_millis=policy.p99_millis,
        idle_seconds=policy.idle_seconds,
    )


def payload_log_from_proto(policy: deployment_pb2.PayloadLog) -> PayloadLog:
    """The policy as sent, unchecked."""
    return PayloadLog(policy.sample_rate, tuple(policy.redact), policy.window_seconds)


def payload_log_to_proto(policy: PayloadLog) -> deployment_pb2.PayloadLog | None:
    """The policy as callers and replicas see it; none where nothing is kept."""
    if not policy.sample_rate:
        return None
    return deployment_pb2.PayloadLog(
        sample_rate=policy.sample_rate, redact=policy.redact, window_seconds=policy.window_seconds
    )


def counts_from_proto(count: inference_service_pb2.TrafficCount) -> Counts:
    """What Envoy counted of one revision."""
    bounds = tuple(math.inf if bound >= 1e12 else bound for bound in count.bounds_millis)
    within = tuple(count.within) if len(count.within) == len(bounds) else ()
    return Counts(count.requests, count.errors, count.in_flight, bounds if within else (), within, count.held)
