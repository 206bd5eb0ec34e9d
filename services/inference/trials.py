"""A revision on trial: from stage to stage, to the end of them, or back. Pure: steps of `rollout`."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from services.inference.gates import Step
from services.inference.revisions import State, move

if TYPE_CHECKING:
    from services.inference.rollout import Facts, Rollout


def promote(rollout: Rollout, reason: str) -> Rollout | None:
    """Take the revision on trial to the end of its stages; None where none is on trial."""
    trial = rollout.trial
    if trial is None:
        return None
    promoted = replace(trial, stage=trial.stage + len(trial.stages), stage_time=None)
    return replace(rollout.replace(promoted), reason=f"revision {trial.number} is promoted: {reason}")


def roll_back(rollout: Rollout, reason: str, now: datetime) -> Rollout | None:
    """End the trial; None where no revision is on trial."""
    trial = rollout.trial
    if trial is None:
        return None
    # That it was on trial is told by the time of its stage.
    failed = replace(
        move(trial, State.FAILED, now, f"rolled back: {reason}"), stage_time=trial.stage_time or now
    )
    return replace(rollout.replace(failed), reason=f"revision {trial.number} is rolled back: {reason}")


def time_stage(rollout: Rollout, facts: Facts) -> Rollout:
    """A stage begins when the table with its shares is in force."""
    trial = rollout.trial
    if trial is None or trial.stage_time or trial.weight is None or facts.confirmed < trial.routed_in:
        return rollout
    return rollout.replace(replace(trial, stage_time=facts.now))


def decide(rollout: Rollout, facts: Facts) -> Rollout:
    """Take a trial to its next stage or back, if that is the stage which was decided about."""
    trial, decision = rollout.trial, facts.decision
    if (
        trial is None
        or decision is None
        or (decision.revision, decision.stage) != (trial.number, trial.stage)
    ):
        return rollout
    if decision.step is Step.BACK:
        return roll_back(rollout, decision.reason, facts.now) or rollout
    if decision.step is Step.WAIT:
        return rollout
    if len(trial.stages) == 1:
        return promote(rollout, decision.reason) or rollout
    passed = replace(trial, stage=trial.stage + 1, stage_time=None)
    reason = f"revision {trial.number} goes on to {passed.stages[0].percent}%: {decision.reason}"
    return replace(rollout.replace(passed), reason=reason)


def begin(rollout: Rollout, facts: Facts) -> Rollout:
    """A new revision with stages is tried once all of its replicas answer, if another one is live meanwhile."""
    latest = rollout.latest
    ready = latest.state is State.STARTING and latest.complete and not latest.weight
    if rollout.deleting or rollout.live is None or not latest.stages or not ready:
        return rollout
    stage = latest.stages[0]
    gets = f"copies of {stage.mirror_percent}%" if stage.mirror_percent else f"{stage.percent}%"
    reason = f"revision {latest.number} goes on trial with {gets} of the requests"
    return replace(rollout.replace(move(latest, State.TRIAL, facts.now)), reason=reason)
