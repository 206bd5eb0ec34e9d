"""What people do to a deployment that runs: scale it, promote or roll back a trial, hold it, say how good it is."""

import math
from collections.abc import Callable
from dataclasses import replace

from aios.errors import FailedPrecondition, InvalidArgument
from aios.inference.v1 import deployment_pb2, inference_service_pb2
from aios.names import DeploymentName, RevisionName
from aios.records import Database, Tx
from aios.runtime import telemetry
from aios.runtime.context import principal
from services.inference import deployments, mapping, policies, policies_mapping, rollout, store, trials
from services.inference.revisions import Revision
from services.inference.rollout import Rollout

NAMES_MAX = 16
NAME_LENGTH_MAX = 63
REASON_LENGTH_MAX = 500


class NoTrial(FailedPrecondition):
    """No revision of the deployment is on trial."""

    reason = "NO_TRIAL"


class NothingBefore(FailedPrecondition):
    """No other revision of the deployment was ever live."""

    reason = "NOTHING_BEFORE"


class Releases:
    """Changes of what runs. The reconciler carries them out."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def scale(self, request: inference_service_pb2.ScaleDeploymentRequest) -> deployment_pb2.Deployment:
        """Set how many replicas there are, or the rule for it."""
        count = request.replicas if request.HasField("replicas") else None
        rule = policies_mapping.scaling_from_proto(request.scaling) if request.HasField("scaling") else None

        def change(before: Rollout, tx: Tx) -> Rollout:
            spec = deployments.scale(before.deployment.spec, count, rule)
            after = replace(before, deployment=replace(before.deployment, spec=spec))
            if count is None:
                return after
            return rollout.scale(after, {each.number: count for each in before.revisions})

        return await self._change(request.name, change)

    async def promote(self, name: str) -> deployment_pb2.Deployment:
        """Give the revision on trial all requests.

        Raises:
            NoTrial: none is on trial.
        """
        by = principal().subject

        def change(before: Rollout, tx: Tx) -> Rollout:
            return _there(trials.promote(before, f"by {by}"), before)

        return await self._change(name, change)

    async def pause(self, name: str, paused: bool) -> deployment_pb2.Deployment:
        """Hold trials at their step, or let them go on."""

        def change(before: Rollout, tx: Tx) -> Rollout:
            return replace(before, deployment=replace(before.deployment, paused=paused))

        return await self._change(name, change)

    async def roll_back(
        self, request: inference_service_pb2.RollbackDeploymentRequest
    ) -> deployment_pb2.Deployment:
        """End a trial, or have a former revision's spec take over again.

        Raises:
            NothingBefore: no other revision was ever live.
            RevisionNotFound: there never was the one that is named.
        """
        who, said = principal().subject, request.reason[:REASON_LENGTH_MAX]
        reason = f"by {who}: {said}" if said else f"by {who}"
        traceparent = telemetry.current_traceparent()

        def change(before: Rollout, tx: Tx) -> Rollout:
            if not request.revision and (ended := trials.roll_back(before, reason, tx.now())):
                return ended
            target = _target(tx, before, request.revision)
            number, now = before.latest.number + 1, tx.now()
            # Known to work: it takes over as soon as it answers.
            made = Revision(
                before.deployment.revision(number),
                replace(target.spec, scaling=before.deployment.spec.scaling),
                target.artifact,
                now,
                stage=len(policies.stages(target.spec.rollout)),
                wanted=max(1, before.live.wanted if before.live else target.spec.replicas),
                creator=who,
                traceparent=traceparent,
            )
            deployment = deployments.update(before.deployment, made.spec, "", number, now)
            why = f"revision {number} takes revision {target.number} up again: rolled back {reason}"
            return Rollout(deployment, (*before.revisions, made), why)

        return await self._change(request.name, change)

    async def quality(self, request: inference_service_pb2.ReportQualityRequest) -> deployment_pb2.Revision:
        """Keep figures of how good a revision's answers are."""
        name = RevisionName.parse(request.name)
        for key, value in request.quality.items():
            if not 0 < len(key) <= NAME_LENGTH_MAX or not math.isfinite(value):
                raise InvalidArgument.of("quality", f"{key[:80]!r} must be a short name with a finite figure")

        def write(tx: Tx) -> deployment_pb2.Revision:
            before = store.revision(tx, name)
            after = replace(before, quality=dict(before.quality) | dict(request.quality))
            if len(after.quality) > NAMES_MAX:
                raise InvalidArgument.of("quality", f"a revision has at most {NAMES_MAX} figures")
            store.note_quality(tx, name, after.quality)
            return mapping.revision_to_proto(after)

        return await self._db.write(write)

    async def _change(self, text: str, change: Callable[[Rollout, Tx], Rollout]) -> deployment_pb2.Deployment:
        name = DeploymentName.parse(text)

        def write(tx: Tx) -> deployment_pb2.Deployment:
            before = store.rollout(tx, name)
            deployments.require_kept(before.deployment)
            after = store.settle(tx, before, change(before, tx))
            assert after is not None
            return mapping.deployment_to_proto(after.deployment)

        return await self._db.write(write)


def _there(after: Rollout | None, before: Rollout) -> Rollout:
    if after is None:
        raise NoTrial(
            f"No revision of {before.deployment.name} is on trial: see `aios deployment status`.",
            name=str(before.deployment.name),
        )
    return after


def _target(tx: Tx, before: Rollout, number: int) -> Revision:
    """The revision to go back to."""
    if number:
        return store.revision(tx, before.deployment.revision(number))
    live = before.live.number if before.live else 0
    found = store.live_before(tx, before.deployment.name, live)
    if found is None:
        raise NothingBefore(
            f"No other revision of {before.deployment.name} was ever live: see `aios deployment history`.",
            name=str(before.deployment.name),
        )
    return found
