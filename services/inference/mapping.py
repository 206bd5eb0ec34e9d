"""Protos to deployments and back."""

from collections.abc import Mapping
from datetime import datetime
from ipaddress import ip_address

from google.protobuf.timestamp_pb2 import Timestamp

from aios.common.v1 import resources_pb2, scheduling_pb2, tensor_pb2
from aios.errors import InvalidArgument
from aios.inference.v1 import deployment_pb2, inference_service_pb2
from aios.names import DeploymentName
from aios.scheduler.v1 import job_pb2
from services.inference import policies_mapping, replicas, routes
from services.inference.deployments import Deployment, Resources, Share, Spec
from services.inference.replicas import Address, JobNews, Replica
from services.inference.revisions import Revision
from services.inference.rollout import TrafficChange
from services.inference.work import Work

REPLICA_COMMAND = ("python", "-m", "services.inference.replica")
REPLICA_PORTS = ("http", "grpc", "metrics")
SERVING_NODES = {"role": "serving"}
"""Labels of the nodes that replicas prefer, where there are any."""
SERVING_TAINT = {"dedicated": "serving"}
"""What keeps all else away from such nodes."""

PORT_MAX = 65_535
BLAMELESS_ENDS = frozenset(
    {"NODE_STOPPED", "LEASE_EXPIRED", "SUPERVISOR_LOST", "NOT_STARTED", "TOKEN_UNAVAILABLE"}
)
"""Ends of an attempt that are the platform's doing and say nothing of the model."""

_JOB_FINAL = frozenset({job_pb2.Job.STATE_SUCCEEDED, job_pb2.Job.STATE_FAILED, job_pb2.Job.STATE_CANCELLED})
_STARTED = frozenset({job_pb2.Job.STATE_STARTING, job_pb2.Job.STATE_RUNNING})
_OVER = frozenset({job_pb2.Attempt.STATE_ENDED, job_pb2.Attempt.STATE_LOST})
_Shown = deployment_pb2.Replica
_SHOWN = {
    replicas.State.PLANNED: _Shown.STATE_STARTING,
    replicas.State.WAITING: _Shown.STATE_STARTING,
    replicas.State.STARTING: _Shown.STATE_STARTING,
    replicas.State.READY: _Shown.STATE_READY,
    replicas.State.SILENT: _Shown.STATE_FAILED,
    replicas.State.FAILED: _Shown.STATE_FAILED,
    replicas.State.LEAVING: _Shown.STATE_READY,
    replicas.State.STOPPING: _Shown.STATE_FAILED,
    replicas.State.ENDED: _Shown.STATE_FAILED,
}
_SAID = {
    _Shown.STATE_STARTING: replicas.State.STARTING,
    _Shown.STATE_READY: replicas.State.READY,
    _Shown.STATE_FAILED: replicas.State.FAILED,
}


def spec_from_proto(spec: deployment_pb2.DeploymentSpec) -> Spec:
    """The spec as sent, unchecked."""
    return Spec(
        model_version=spec.model_version,
        replicas=spec.replicas,
        resources=Resources(
            spec.resources.cpu_millis,
            spec.resources.memory_bytes,
            dict(spec.resources.accelerators),
            dict(spec.resources.accelerator_millis),
            dict(spec.resources.accelerator_memory_bytes),
            dict(spec.resources.budgets),
        ),
        batch_delay_micros=spec.batch_delay_micros,
        rollout=policies_mapping.rollout_from_proto(spec.rollout),
        scaling=policies_mapping.scaling_from_proto(spec.scaling),
        payload_log=policies_mapping.payload_log_from_proto(spec.payload_log),
    )


def spec_to_proto(spec: Spec) -> deployment_pb2.DeploymentSpec:
    """The spec as callers see it, and as it is stored."""
    return deployment_pb2.DeploymentSpec(
        model_version=spec.model_version,
        replicas=spec.replicas,
        resources=_resources_to_proto(spec.resources),
        batch_delay_micros=spec.batch_delay_micros,
        rollout=policies_mapping.rollout_to_proto(spec.rollout),
        scaling=policies_mapping.scaling_to_proto(spec.scaling),
        payload_log=policies_mapping.payload_log_to_proto(spec.payload_log),
    )


def deployment_to_proto(deployment: Deployment) -> deployment_pb2.Deployment:
    """The deployment as callers see it."""
    live = deployment.live
    return deployment_pb2.Deployment(
        name=str(deployment.name),
        spec=spec_to_proto(deployment.spec),
        state=deployment_pb2.Deployment.State.Value(f"STATE_{deployment.state.value}"),
        state_message=deployment.message,
        live_revision="" if live is None else str(deployment.revision(live)),
        latest_revision=str(deployment.revision(deployment.latest)),
        create_time=_timestamp(deployment.create_time),
        update_time=_timestamp(deployment.update_time),
        etag=deployment.etag,
        paused=deployment.paused,
        traffic=shares_to_proto(deployment.name, deployment.shares),
        traffic_reason=deployment.reason,
    )


def shares_to_proto(name: DeploymentName, shares: Mapping[int, Share]) -> list[deployment_pb2.TrafficShare]:
    """Who gets which share, by number of the revision."""
    return [
        deployment_pb2.TrafficShare(
            revision=f"{name}/revisions/{number}", percent=share.percent, mirror_percent=share.mirror_percent
        )
        for number, share in sorted(shares.items())
    ]


def change_to_proto(change: TrafficChange) -> deployment_pb2.TrafficChange:
    """One change of a deployment's shares."""
    return deployment_pb2.TrafficChange(
        shares=shares_to_proto(change.deployment, change.shares),
        reason=change.reason,
        request_time=_timestamp(change.request_time),
        effect_time=_timestamp(change.effect_time),
    )


def revision_to_proto(revision: Revision) -> deployment_pb2.Revision:
    """The revision as callers see it."""
    return deployment_pb2.Revision(
        name=str(revision.name),
        spec=spec_to_proto(revision.spec),
        state=deployment_pb2.Revision.State.Value(f"STATE_{revision.state.value}"),
        state_message=revision.message,
        replicas=[_replica_to_proto(each) for each in revision.replicas],
        create_time=_timestamp(revision.create_time),
        live_time=_timestamp(revision.live_time),
        retire_time=_timestamp(revision.retire_time),
        traffic=share_of(revision),
        replicas_wanted=0 if revision.leaving or revision.retire_time else revision.wanted,
        quality=revision.quality,
    )


def share_of(revision: Revision) -> deployment_pb2.TrafficShare:
    """What one revision gets."""
    return deployment_pb2.TrafficShare(
        revision=str(revision.name), percent=revision.weight or 0, mirror_percent=revision.mirror
    )


def replica_spec_to_proto(revision: Revision) -> inference_service_pb2.ReplicaSpec:
    """What a replica of this revision must serve."""
    return inference_service_pb2.ReplicaSpec(
        deployment_id=revision.name.deployment,
        revision=str(revision.name),
        model_version=revision.spec.model_version,
        signature=tensor_pb2.Signature.FromString(revision.artifact.signature),
        batch_delay_micros=revision.spec.batch_delay_micros,
        manifest_sha256=revision.artifact.manifest_sha256,
        payload_log=policies_mapping.payload_log_to_proto(revision.spec.payload_log),
    )


def tensors_of(signature: bytes) -> dict[str, tuple[int, ...]]:
    """Shape of each input and output by the name that kept predictions have it under."""
    said = tensor_pb2.Signature.FromString(signature)
    return {f"input.{each.name}": tuple(each.shape) for each in said.inputs} | {
        f"output.{each.name}": tuple(each.shape) for each in said.outputs
    }


def said_state(request: inference_service_pb2.ReportReplicaRequest) -> replicas.State:
    """The state that a replica reports.

    Raises:
        InvalidArgument: it reports none.
    """
    state = _SAID.get(request.state)
    if state is None:
        raise InvalidArgument.of("state", "must be STATE_STARTING, STATE_READY or STATE_FAILED")
    return state


def work_from_proto(work: inference_service_pb2.ReplicaWork) -> Work:
    """What a model server has counted."""
    return Work(
        work.requests,
        work.rows,
        work.batches,
        work.queue_micros,
        work.compute_micros,
        work.prompt_tokens,
        work.completion_tokens,
    )


def said_address(request: inference_service_pb2.ReportReplicaRequest) -> Address:
    """Where a replica says that it listens.

    Raises:
        InvalidArgument: that is no address which Envoy could dial.
    """
    try:
        host = str(ip_address(request.host))
    except ValueError:
        raise InvalidArgument.of("host", f"must be an IP address, not {request.host[:80]!r}") from None
    for field, port in (("http_port", request.http_port), ("grpc_port", request.grpc_port)):
        if not 0 < port <= PORT_MAX:
            raise InvalidArgument.of(field, f"must be between 1 and {PORT_MAX}, not {port}")
    return Address(host, request.http_port, request.grpc_port)


def job_of(revision: Revision) -> job_pb2.Job:
    """The scheduler job of any replica of this revision."""
    return job_pb2.Job(
        spec=job_pb2.JobSpec(
            kind=job_pb2.JobSpec.KIND_SERVICE,
            command=REPLICA_COMMAND,
            resources=_resources_to_proto(revision.spec.resources),
            ports=REPLICA_PORTS,
            owner=str(revision.name),
            scheduling=scheduling_pb2.Scheduling(node_preference=SERVING_NODES, tolerations=SERVING_TAINT),
        )
    )


def news_from_proto(job: job_pb2.Job) -> JobNews:
    """What a job's state says of the replica that it runs."""
    return JobNews(
        final=job.state in _JOB_FINAL,
        failed=job.state == job_pb2.Job.STATE_FAILED,
        started=job.state in _STARTED,
        over=job.HasField("attempt") and job.attempt.state in _OVER,
        blameless=job.attempt.state == job_pb2.Attempt.STATE_LOST or job.attempt.end_reason in BLAMELESS_ENDS,
        epoch=job.epoch,
        message=job.state_message,
    )


def route_to_proto(route: routes.DeploymentRoute) -> inference_service_pb2.DeploymentRoute:
    """One entry of the routing table."""
    return inference_service_pb2.DeploymentRoute(
        deployment=str(route.deployment),
        revisions=[
            inference_service_pb2.RevisionRoute(
                revision=str(each.revision),
                weight=each.weight,
                mirror_percent=each.mirror_percent,
                asleep=each.asleep,
                replicas=[_endpoint_to_proto(endpoint) for endpoint in each.endpoints],
            )
            for each in route.revisions
        ],
        affinity_header=route.affinity_header,
    )


def _endpoint_to_proto(endpoint: routes.Endpoint) -> deployment_pb2.Replica:
    return deployment_pb2.Replica(
        job=str(endpoint.job),
        state=_Shown.STATE_READY,
        epoch=endpoint.epoch,
        host=endpoint.address.host,
        http_port=endpoint.address.http_port,
        grpc_port=endpoint.address.grpc_port,
    )


def _replica_to_proto(replica: Replica) -> deployment_pb2.Replica:
    shown = deployment_pb2.Replica(
        job=str(replica.job), state=_SHOWN[replica.state], message=replica.message, epoch=replica.epoch
    )
    if replica.address is not None:
        shown.host, shown.http_port, shown.grpc_port = replica.address
    return shown


def _resources_to_proto(resources: Resources) -> resources_pb2.Resources:
    return resources_pb2.Resources(
        cpu_millis=resources.cpu_millis,
        memory_bytes=resources.memory_bytes,
        accelerators=resources.accelerators,
        accelerator_millis=resources.accelerator_millis,
        accelerator_memory_bytes=resources.accelerator_memory_bytes,
        budgets=resources.budgets,
    )


def _timestamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
