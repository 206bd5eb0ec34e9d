"""Where a deployment stands, in a word and in words. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from services.inference import deployments, replicas
from services.inference.revisions import Revision, State

if TYPE_CHECKING:
    from services.inference.rollout import Rollout


def judge(rollout: Rollout, now: datetime) -> Rollout:
    """Say where the deployment stands."""
    state, message = _standing(rollout)
    live = rollout.live.number if rollout.live else None
    before = rollout.deployment
    after = replace(before, state=state, message=message, live=live, shares=rollout.shares)
    return rollout if after == before else replace(rollout, deployment=replace(after, update_time=now))


def _standing(rollout: Rollout) -> tuple[deployments.State, str]:
    latest, live = rollout.latest, rollout.live
    if rollout.deleting:
        return deployments.State.DELETING, ""
    if latest.state is State.FAILED:
        rest = f"; revision {live.number} answers" if live is not None and live.ready else ""
        verb = "was" if latest.stage_time else "could not start:"
        return deployments.State.DEGRADED, f"revision {latest.number} {verb} {latest.message}{rest}"
    if latest is not live:
        state = deployments.State.STARTING if live is None else deployments.State.UPDATING
        return state, _on_trial(rollout) or _missing(latest)
    if latest.asleep:
        return deployments.State.ASLEEP, latest.message or _missing(latest)
    if not latest.ready:
        return deployments.State.DEGRADED, f"no replica answers: {_missing(latest)}"
    return deployments.State.READY, _missing(latest)


def _on_trial(rollout: Rollout) -> str:
    """What the revision on trial gets, and in which step; empty when none is on trial."""
    trial = rollout.trial
    if trial is None:
        return ""
    stage, steps = trial.stages[0], trial.stage + len(trial.stages)
    gets = f"copies of {stage.mirror_percent}%" if stage.mirror_percent else f"{stage.percent}%"
    held = ", waits to be promoted" if rollout.deployment.paused or not stage.seconds else ""
    step = f", step {trial.stage + 1} of {steps}" if steps > 1 else ""
    return f"revision {trial.number} on trial gets {gets} of the requests{step}{held}"


def _missing(revision: Revision) -> str:
    """How many replicas do not answer yet, and what one of them waits for; empty when all do."""
    if revision.complete:
        return ""
    serving = [each for each in revision.replicas if each.state not in replicas.DONE]
    waits = next((each for each in serving if each.message and each not in revision.ready), None)
    reason = f": {waits.job.job} {waits.message}" if waits else ""
    return f"{len(revision.ready)} of {revision.wanted} replicas answer{reason}"
