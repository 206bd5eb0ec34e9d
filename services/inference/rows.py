"""Rows of the records to nouns and back."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row

from aios.names import DeploymentName, JobName, RevisionName
from services.inference import mapping
from services.inference.deployments import Deployment, Share
from services.inference.deployments import State as DeploymentState
from services.inference.replicas import Address, Replica
from services.inference.replicas import State as ReplicaState
from services.inference.revisions import Artifact, Revision
from services.inference.revisions import State as RevisionState
from services.inference.rollout import TrafficChange


def of_deployment(deployment: Deployment) -> dict[str, Any]:
    """Columns of a deployment."""
    return {
        "spec": mapping.spec_to_proto(deployment.spec),
        "state": deployment.state,
        "message": deployment.message,
        "latest": deployment.latest,
        "live": deployment.live,
        "paused": deployment.paused,
        "shares": _shares_to_json(deployment.shares),
        "reason": deployment.reason,
        "create_time": deployment.create_time,
        "update_time": deployment.update_time,
    }


def of_revision(revision: Revision) -> dict[str, Any]:
    """Columns of a revision that change."""
    return {
        "state": revision.state,
        "message": revision.message,
        "weight": revision.weight,
        "mirror": revision.mirror,
        "stage": revision.stage,
        "stage_time": revision.stage_time,
        "wanted": revision.wanted,
        "asleep": revision.asleep,
        "routed_in": revision.routed_in,
        "replicas_made": revision.replicas_made,
        "live_time": revision.live_time,
        "retire_time": revision.retire_time,
    }


def of_new_revision(revision: Revision) -> dict[str, Any]:
    """Every column of a revision but its key."""
    return of_revision(revision) | {
        "spec": mapping.spec_to_proto(revision.spec),
        "manifest_sha256": revision.artifact.manifest_sha256,
        "signature": revision.artifact.signature,
        "create_time": revision.create_time,
        "creator": revision.creator,
        "traceparent": revision.traceparent,
        "recorded": revision.recorded,
    }


def of_replica(replica: Replica) -> dict[str, Any]:
    """Columns of a replica."""
    address = replica.address
    return {
        "state": replica.state,
        "message": replica.message,
        "epoch": replica.epoch,
        "host": address.host if address else None,
        "http_port": address.http_port if address else None,
        "grpc_port": address.grpc_port if address else None,
        "failures": replica.failures,
        "failed_epoch": replica.failed_epoch,
        "left_in": replica.left_in,
    }


def deployment(row: Row[Any]) -> Deployment:
    """The deployment in a row."""
    return Deployment(
        name=DeploymentName(row.project, row.deployment),
        spec=mapping.spec_from_proto(row.spec),
        latest=row.latest,
        create_time=row.create_time,
        update_time=row.update_time,
        state=DeploymentState(row.state),
        message=row.message,
        live=row.live,
        paused=row.paused,
        shares=_shares_from_json(row.shares or {}),
        reason=row.reason,
    )


def revision(row: Row[Any], processes: Mapping[RevisionName, Sequence[Replica]]) -> Revision:
    """The revision in a row, with its replicas out of `processes`."""
    name = RevisionName(row.project, row.deployment, str(row.number))
    spec = mapping.spec_from_proto(row.spec)
    return Revision(
        name=name,
        spec=spec,
        artifact=Artifact(row.manifest_sha256, row.signature),
        create_time=row.create_time,
        state=RevisionState(row.state),
        message=row.message,
        weight=row.weight,
        mirror=row.mirror,
        stage=row.stage,
        stage_time=row.stage_time,
        quality=row.quality or {},
        wanted=spec.replicas if row.wanted is None else row.wanted,
        asleep=row.asleep,
        routed_in=row.routed_in,
        replicas=tuple(processes.get(name, ())),
        replicas_made=row.replicas_made,
        live_time=row.live_time,
        retire_time=row.retire_time,
        creator=row.creator,
        traceparent=row.traceparent,
        recorded=row.recorded,
    )


def replica(row: Row[Any]) -> Replica:
    """The replica in a row."""
    return Replica(
        job=JobName(row.project, row.job),
        state=ReplicaState(row.state),
        message=row.message,
        epoch=row.epoch,
        address=Address(row.host, row.http_port, row.grpc_port) if row.host else None,
        failures=row.failures,
        failed_epoch=row.failed_epoch,
        left_in=row.left_in,
    )


def traffic_change(row: Row[Any]) -> TrafficChange:
    """The change of shares in a row."""
    name = DeploymentName(row.project, row.deployment)
    return TrafficChange(name, _shares_from_json(row.shares), row.reason, row.request_time, row.effect_time)


def of_traffic_change(change: TrafficChange) -> dict[str, Any]:
    """Columns of a change of shares."""
    return {
        "project": change.deployment.project,
        "deployment": change.deployment.deployment,
        "shares": _shares_to_json(change.shares),
        "reason": change.reason,
        "request_time": change.request_time,
        "effect_time": change.effect_time,
    }


def _shares_to_json(shares: Mapping[int, Share]) -> dict[str, list[int]]:
    return {str(number): list(share) for number, share in shares.items()}


def _shares_from_json(value: Mapping[str, Sequence[int]]) -> dict[int, Share]:
    return {int(number): Share(*share) for number, share in value.items()}
