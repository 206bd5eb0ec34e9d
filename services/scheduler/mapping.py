"""Protos to domain and back."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from aios import scheduling_proto
from aios.common.v1 import resources_pb2
from aios.errors import InvalidArgument
from aios.names import JobName, NodeName, QueueName
from aios.scheduler.v1 import agent_service_pb2, history_pb2, job_pb2, node_pb2, policy_pb2
from services.scheduler.attempts import Attempt, AttemptState, Replica, meeting_point
from services.scheduler.jobs import Job, State
from services.scheduler.nodes import Node, NodeState
from services.scheduler.plan import Reason
from services.scheduler.policies import PREEMPT_INTERVAL, RESERVATIONS, Policy
from services.scheduler.progress import Progress
from services.scheduler.resources import Resources
from services.scheduler.specs import STOP_GRACE, JobSpec, Kind

_ATTEMPT_STATES: Mapping[int, AttemptState] = {
    job_pb2.Attempt.State.Value(f"STATE_{state}"): state for state in AttemptState
}
POLICY = "policy"
"""The one policy's resource name."""
ENDED = job_pb2.Attempt.STATE_ENDED
SPECS_KEPT = 4096


class _Specs:
    """Protos of specs, which never change: made once for the many times that a job is told of."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[JobSpec, job_pb2.JobSpec, dict[str, Any]]] = {}

    def of(self, spec: JobSpec) -> tuple[job_pb2.JobSpec, dict[str, Any]]:
        """The proto of a spec, and the same as JSON; neither may be changed."""
        known = self._made.get(id(spec))
        if known is None or known[0] is not spec:
            proto = _spec_to_proto(spec)
            if len(self._made) >= SPECS_KEPT:
                self._made.clear()
            # With the spec itself, so that no other one can get its id.
            known = self._made[id(spec)] = spec, proto, as_json(proto)
        return known[1:]


_specs = _Specs()


def job_to_proto(job: Job, waits: Reason | None = None) -> job_pb2.Job:
    """Args: waits: Why a queued job waits, as the last plan found."""
    found = waits if waits and job.state is State.QUEUED else Reason(job.reason, job.message)
    return job_pb2.Job(
        name=str(job.name),
        spec=spec_to_proto(job.spec),
        state=job_pb2.Job.State.Value(f"STATE_{job.state}"),
        state_reason=found.code,
        state_message=found.message,
        epoch=job.epoch,
        attempt=attempt_to_proto(job.attempt) if job.attempt else None,
        create_time=_stamp(job.create_time),
        update_time=_stamp(job.update_time),
        end_time=_stamp(job.end_time),
        etag=str(job.version),
        progress=progress_to_proto(job.progress) if job.progress else None,
    )


def progress_to_proto(progress: Progress) -> job_pb2.JobProgress:
    return job_pb2.JobProgress(
        step=progress.step,
        total_steps=progress.total_steps,
        steps_per_second=progress.steps_per_second,
        saved_step=progress.saved_step,
        restored_step=progress.restored_step,
        saves=progress.saves,
        epoch=progress.epoch,
        load_time=None if progress.load_time is None else duration(progress.load_time),
        update_time=_stamp(progress.update_time),
    )


def said_from_proto(proto: job_pb2.JobProgress, epoch: int) -> Progress:
    """What the process of that attempt says."""
    return Progress(
        epoch=epoch,
        step=proto.step,
        total_steps=proto.total_steps,
        steps_per_second=proto.steps_per_second,
        saved_step=proto.saved_step,
        restored_step=proto.restored_step,
        saves=proto.saves,
    )


def progress_from_proto(proto: job_pb2.JobProgress) -> Progress:
    """What was stored."""
    return replace(
        said_from_proto(proto, proto.epoch),
        load_time=_span(proto.load_time) if proto.HasField("load_time") else None,
        update_time=proto.update_time.ToDatetime(UTC) if proto.HasField("update_time") else None,
    )


def states_from_proto(values: Iterable[job_pb2.Job.State.ValueType]) -> list[State]:
    """States that a request names; it may not name what is none."""
    known = {job_pb2.Job.State.Value(f"STATE_{state}"): state for state in State}
    unknown = [value for value in values if value not in known]
    if unknown:
        raise InvalidArgument.of("states", f"{unknown[0]} is no state of a job")
    return [known[value] for value in values]


def policy_to_proto(policy: Policy, update_time: datetime | None = None) -> policy_pb2.Policy:
    return policy_pb2.Policy(
        name=POLICY,
        algorithm=policy.algorithm,
        preempt_interval=duration(policy.preempt_interval),
        reservations=policy.reservations,
        usage_half_life=duration(policy.usage_half_life) if policy.usage_half_life else None,
        utility=[policy_pb2.UtilityPoint(time=time, worth=worth) for time, worth in policy.utility],
        update_time=_stamp(update_time),
    )


def policy_from_proto(proto: policy_pb2.Policy) -> Policy:
    return Policy(
        algorithm=proto.algorithm,
        preempt_interval=_span(proto.preempt_interval)
        if proto.HasField("preempt_interval")
        else PREEMPT_INTERVAL,
        reservations=proto.reservations or RESERVATIONS,
        usage_half_life=_span(proto.usage_half_life),
        utility=tuple((point.time, point.worth) for point in proto.utility),
    )


def spec_to_json(spec: JobSpec) -> dict[str, Any]:
    """One that may not be changed."""
    return _specs.of(spec)[1]


def as_json(message: Message) -> dict[str, Any]:
    """A message as events carry it."""
    return MessageToDict(message, preserving_proto_field_name=True)


def spec_to_proto(spec: JobSpec) -> job_pb2.JobSpec:
    """One that may not be changed."""
    return _specs.of(spec)[0]


def _spec_to_proto(spec: JobSpec) -> job_pb2.JobSpec:
    return job_pb2.JobSpec(
        kind=job_pb2.JobSpec.Kind.Value(f"KIND_{spec.kind}"),
        command=spec.command,
        environment=dict(spec.environment),
        resources=resources_to_proto(spec.resources),
        ports=spec.ports,
        max_restarts=spec.max_restarts,
        stop_grace=duration(spec.stop_grace),
        owner=spec.owner,
        priority=spec.priority,
        queue=str(QueueName(spec.queue)) if spec.queue else "",
        scheduling=scheduling_proto.to_proto(spec.scheduling),
        node_network=spec.node_network,
        replicas=spec.replicas if spec.replicas > 1 else 0,
        min_replicas=spec.min_replicas,
        requirements=spec.requirements,
    )


def spec_from_proto(proto: job_pb2.JobSpec) -> JobSpec:
    return JobSpec(
        command=tuple(proto.command),
        resources=resources_from_proto(proto.resources),
        kind=_kind(proto.kind),
        environment=dict(proto.environment),
        ports=tuple(proto.ports),
        max_restarts=proto.max_restarts,
        stop_grace=_span(proto.stop_grace) if proto.HasField("stop_grace") else STOP_GRACE,
        owner=proto.owner,
        priority=proto.priority,
        queue=QueueName.parse(proto.queue, "job.spec.queue").queue if proto.queue else "",
        scheduling=scheduling_proto.from_proto(proto.scheduling, "job.spec.scheduling"),
        node_network=proto.node_network,
        replicas=proto.replicas or 1,
        min_replicas=proto.min_replicas,
        requirements=proto.requirements,
    )


def attempt_to_proto(attempt: Attempt) -> job_pb2.Attempt:
    return job_pb2.Attempt(
        job=str(attempt.job),
        epoch=attempt.epoch,
        node=str(NodeName(attempt.node)),
        state=job_pb2.Attempt.State.Value(f"STATE_{attempt.state}"),
        host=attempt.host,
        ports=dict(attempt.ports),
        exit_code=attempt.exit_code,
        end_reason=attempt.end_reason,
        assign_time=_stamp(attempt.assign_time),
        start_time=_stamp(attempt.start_time),
        end_time=_stamp(attempt.end_time),
        rank=attempt.rank,
        replicas=map(replica_to_proto, attempt.replicas),
    )


def replica_to_proto(replica: Replica) -> job_pb2.Replica:
    return job_pb2.Replica(
        rank=replica.rank,
        node=str(NodeName(replica.node)),
        state=job_pb2.Attempt.State.Value(f"STATE_{replica.state}"),
        host=replica.host,
        ports=dict(replica.ports),
        exit_code=replica.exit_code,
        end_reason=replica.end_reason,
        start_time=_stamp(replica.start_time),
        end_time=_stamp(replica.end_time),
    )


def replicas_to_proto(attempt: Attempt) -> job_pb2.Attempt | None:
    """The processes of a gang, as they are stored; None where it is none."""
    return job_pb2.Attempt(replicas=map(replica_to_proto, attempt.replicas)) if attempt.replicas else None


def replicas_from_proto(stored: job_pb2.Attempt | None) -> tuple[Replica, ...]:
    """What was stored."""
    return tuple(
        Replica(
            rank=each.rank,
            node=NodeName.parse(each.node).node,
            state=_ATTEMPT_STATES[each.state],
            host=each.host,
            ports=dict(each.ports),
            exit_code=each.exit_code if each.HasField("exit_code") else None,
            end_reason=each.end_reason,
            start_time=moment(each, "start_time"),
            end_time=moment(each, "end_time"),
        )
        for each in (stored.replicas if stored is not None else ())
    )


def attempt_from_proto(proto: job_pb2.Attempt) -> Attempt:
    """What a node says. What was granted is the scheduler's to know and not in it."""
    return Attempt(
        job=JobName.parse(proto.job, "attempt.job"),
        epoch=proto.epoch,
        node=NodeName.parse(proto.node, "attempt.node").node,
        state=_ATTEMPT_STATES.get(proto.state, AttemptState.ASSIGNED),
        host=proto.host,
        ports=dict(proto.ports),
        exit_code=proto.exit_code if proto.HasField("exit_code") else None,
        end_reason=proto.end_reason,
        start_time=moment(proto, "start_time"),
        end_time=moment(proto, "end_time"),
        rank=proto.rank,
    )


def history_to_proto(job: Job, attempts: Sequence[Attempt]) -> history_pb2.JobHistory:
    expected = job.spec.scheduling.expected_duration
    return history_pb2.JobHistory(
        job=str(job.name),
        owner=job.spec.owner,
        queue=str(QueueName(job.spec.queue or job.name.project)),
        kind=job_pb2.JobSpec.Kind.Value(f"KIND_{job.spec.kind}"),
        state=job_pb2.Job.State.Value(f"STATE_{job.state}"),
        resources=resources_to_proto(job.spec.resources),
        granted=resources_to_proto(attempts[-1].granted) if attempts else None,
        priority=job.spec.priority,
        weight=job.spec.scheduling.weight,
        expected_duration=duration(expected) if expected else None,
        total_steps=job.progress.total_steps if job.progress else 0,
        create_time=_stamp(job.create_time),
        end_time=_stamp(job.end_time),
        attempts=map(attempt_to_proto, attempts),
        replicas=job.spec.replicas if job.spec.replicas > 1 else 0,
    )


def assignment_spec(job: Job, rank: int = 0) -> agent_service_pb2.AssignmentSpec:
    """The current attempt of a job, or one process of it, as its node needs it."""
    assert job.attempt is not None
    return agent_service_pb2.AssignmentSpec(
        job=str(job.name),
        epoch=job.attempt.epoch,
        node=str(NodeName(job.attempt.nodes[rank])),
        spec=spec_to_proto(job.spec),
        traceparent=job.traceparent,
        granted=resources_to_proto(job.attempt.granted),
        gang=_gang_place(job.attempt, rank) if job.attempt.replicas else None,
    )


def _gang_place(attempt: Attempt, rank: int) -> agent_service_pb2.GangPlace:
    host, port = (meeting_point(attempt) if rank else None) or ("", 0)
    return agent_service_pb2.GangPlace(rank=rank, replicas=len(attempt.replicas), host=host, port=port)


def node_to_proto(node: Node, allocated: Resources, heartbeat_time: datetime | None) -> node_pb2.Node:
    return node_pb2.Node(
        name=str(NodeName(node.name)),
        state=node_pb2.Node.State.Value(f"STATE_{node.state}"),
        capacity=resources_to_proto(node.capacity),
        allocated=resources_to_proto(allocated),
        labels=dict(node.labels),
        heartbeat_time=_stamp(heartbeat_time),
        cordoned=node.cordoned,
        draining=node.draining,
        taints=node.taints,
    )


def operation_from_proto(proto: node_pb2.Node) -> Node:
    """What an operator says of a node."""
    return Node(
        NodeName.parse(proto.name, "node.name").node,
        NodeState.READY,
        Resources(),
        cordoned=proto.cordoned,
        draining=proto.draining,
        taints=dict(proto.taints),
    )


def node_from_proto(proto: agent_service_pb2.Register) -> Node:
    return Node(
        name=NodeName.parse(proto.node, "register.node").node,
        state=NodeState.READY,
        capacity=resources_from_proto(proto.capacity),
        host=proto.host,
        labels=dict(proto.labels),
    )


def resources_to_proto(resources: Resources) -> resources_pb2.Resources:
    return resources_pb2.Resources(
        cpu_millis=resources.cpu_millis,
        memory_bytes=resources.memory_bytes,
        accelerators=dict(resources.accelerators),
        accelerator_millis=dict(resources.accelerator_millis),
        accelerator_memory_bytes=dict(resources.device_memory),
        shared_device=resources.shared_device,
        budgets=dict(resources.budgets),
    )


def resources_from_proto(proto: resources_pb2.Resources) -> Resources:
    return Resources(
        proto.cpu_millis,
        proto.memory_bytes,
        dict(proto.accelerators),
        dict(proto.accelerator_millis),
        dict(proto.accelerator_memory_bytes),
        proto.shared_device,
        dict(proto.budgets),
    )


def duration(span: timedelta) -> Duration:
    proto = Duration()
    proto.FromTimedelta(span)
    return proto


def _kind(value: int) -> Kind:
    if value not in job_pb2.JobSpec.Kind.values():
        raise InvalidArgument.of("job.spec.kind", "must be KIND_BATCH or KIND_SERVICE")
    return Kind.SERVICE if value == job_pb2.JobSpec.KIND_SERVICE else Kind.BATCH


def _span(proto: Duration) -> timedelta:
    # Kept within what timedelta can hold; the rule for the field says what is allowed.
    return timedelta(seconds=max(-1, min(proto.seconds, 10**9)), microseconds=proto.nanos / 1000)


def _stamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    proto = Timestamp()
    proto.FromDatetime(moment)
    return proto


def moment(proto: Message, field: str) -> datetime | None:
    """A field that is a time; None where unset."""
    if not proto.HasField(field):
        return None
    stamp: Timestamp = getattr(proto, field)
    try:
        return stamp.ToDatetime(UTC)
    except (ValueError, OverflowError):
        raise InvalidArgument.of(field, "must lie in the years 1 to 9999") from None
