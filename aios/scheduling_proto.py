"""`aios.scheduling` to protos and back."""

from datetime import UTC, datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from aios.common.v1 import scheduling_pb2
from aios.errors import InvalidArgument
from aios.scheduling import Scheduling, Topology


def to_proto(said: Scheduling) -> scheduling_pb2.Scheduling:
    """With what was left out left out."""
    proto = scheduling_pb2.Scheduling(
        weight=said.weight if said.weight != 1 else 0,
        preemptible=said.preemptible,
        node_selector=said.node_selector,
        node_preference=said.node_preference,
        tolerations=said.tolerations,
        speeds=said.speeds,
        topology=_topology_to_proto(said.topology) if said.topology else None,
    )
    for name in ("expected_duration", "max_run_time", "min_run_time"):
        if span := getattr(said, name):
            getattr(proto, name).FromTimedelta(span)
    if said.deadline is not None:
        proto.deadline.FromDatetime(said.deadline)
    return proto


def from_proto(proto: scheduling_pb2.Scheduling, field: str) -> Scheduling:
    """What was said, with defaults filled in; not checked.

    Raises:
        InvalidArgument: a deadline that no calendar has, or no such mode.
    """
    return Scheduling(
        weight=proto.weight if proto.weight != 0 else 1.0,
        expected_duration=_span(proto.expected_duration) if proto.HasField("expected_duration") else None,
        max_run_time=_span(proto.max_run_time) if proto.HasField("max_run_time") else None,
        preemptible=proto.preemptible if proto.HasField("preemptible") else None,
        min_run_time=_span(proto.min_run_time),
        deadline=_moment(proto.deadline, field) if proto.HasField("deadline") else None,
        node_selector=dict(proto.node_selector),
        node_preference=dict(proto.node_preference),
        tolerations=dict(proto.tolerations),
        speeds=dict(proto.speeds),
        topology=_topology(proto.topology, field) if proto.HasField("topology") else None,
    )


def _topology_to_proto(said: Topology) -> scheduling_pb2.Topology:
    mode = scheduling_pb2.Topology.MODE_REQUIRED if said.required else scheduling_pb2.Topology.MODE_PREFERRED
    return scheduling_pb2.Topology(key=said.key, mode=mode)


def _topology(proto: scheduling_pb2.Topology, field: str) -> Topology:
    if proto.mode not in scheduling_pb2.Topology.Mode.values():
        raise InvalidArgument.of(f"{field}.topology.mode", "must be MODE_REQUIRED or MODE_PREFERRED")
    return Topology(proto.key, proto.mode != scheduling_pb2.Topology.MODE_PREFERRED)


def _span(proto: Duration) -> timedelta:
    # Kept within what timedelta can hold; the rules say what is allowed.
    return timedelta(seconds=max(-1, min(proto.seconds, 10**9)), microseconds=proto.nanos / 1000)


def _moment(proto: Timestamp, field: str) -> datetime:
    try:
        return proto.ToDatetime(UTC)
    except (ValueError, OverflowError):
        raise InvalidArgument.of(f"{field}.deadline", "must lie in the years 1 to 9999") from None
