"""The routing table: which revisions share a deployment's requests, and where their replicas listen. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from aios.names import DeploymentName, JobName, RevisionName
from services.inference.replicas import Address, State
from services.inference.revisions import Revision
from services.inference.rollout import Rollout


@dataclass(frozen=True)
class Endpoint:
    """One replica as Envoy needs it."""

    job: JobName
    epoch: int
    address: Address


@dataclass(frozen=True)
class RevisionRoute:
    """One revision's share and its replicas. A weight of 0 takes no requests."""

    revision: RevisionName
    weight: int
    endpoints: tuple[Endpoint, ...]
    mirror_percent: int = 0
    asleep: bool = False
    """Has no replica by choice: requests are held until it has one."""


@dataclass(frozen=True)
class DeploymentRoute:
    """How requests for one deployment are shared out. Without a revision that takes any, nothing answers yet."""

    deployment: DeploymentName
    revisions: tuple[RevisionRoute, ...]
    affinity_header: str = ""
    """Requests with the same value of this header go to the same revision, while several answer."""


def route(rollout: Rollout) -> DeploymentRoute | None:
    """The table's entry for one deployment; None for one that is being taken down, whose name is unknown at once."""
    if rollout.deleting:
        return None
    trial = rollout.trial
    return DeploymentRoute(
        rollout.deployment.name,
        tuple(_share(each, each.weight) for each in rollout.revisions if each.weight is not None),
        trial.spec.rollout.affinity_header if trial and trial.weight else "",
    )


def table(rollouts: Iterable[Rollout]) -> tuple[DeploymentRoute, ...]:
    """The whole table."""
    return tuple(found for each in rollouts if (found := route(each)) is not None)


def _share(revision: Revision, weight: int) -> RevisionRoute:
    endpoints = _endpoints(revision)
    asleep = revision.asleep and not endpoints
    # Without an endpoint nothing could answer: the gateway must not wait for it, or every other change waits too.
    share = weight if endpoints or asleep else 0
    return RevisionRoute(
        revision.name, share, endpoints, revision.mirror if endpoints else 0, asleep and bool(weight)
    )


def _endpoints(revision: Revision) -> tuple[Endpoint, ...]:
    """The replicas that answer. Where all have fallen silent it is likelier that they cannot reach us than that all
    are dead, and an empty table would make that an outage: Envoy, which asks them itself, decides then.
    """
    usable = revision.ready or tuple(each for each in revision.replicas if each.state is State.SILENT)
    return tuple(Endpoint(each.job, each.epoch, each.address) for each in usable if each.address is not None)
