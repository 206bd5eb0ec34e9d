"""Checkpoints: what a run goes on from, and which attempt may still write one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from aios.errors import AlreadyExists, InvalidArgument, NotFound, StaleEpoch
from aios.names import CheckpointName, RunName

EPOCH_DIGITS, STEP_DIGITS = 6, 12  # ids sort as their numbers do


class CheckpointNotFound(NotFound):
    """The run has no such checkpoint."""

    reason = "CHECKPOINT_NOT_FOUND"


class CheckpointExists(AlreadyExists):
    """This attempt has stored something else at this step."""

    reason = "CHECKPOINT_EXISTS"


@dataclass(frozen=True)
class Checkpoint:
    """Files at one step of a run."""

    run: RunName
    epoch: int
    """The job's attempt that wrote it, from 1."""
    step: int
    manifest_sha256: str
    metrics: Mapping[str, float]
    create_time: datetime

    @property
    def name(self) -> CheckpointName:
        """`{epoch}-{step}` below the run."""
        return name_of(self.run, self.epoch, self.step)


def name_of(run: RunName, epoch: int, step: int) -> CheckpointName:
    """The name of the checkpoint of a step by an attempt."""
    return CheckpointName(run.project, run.run, id_of(epoch, step))


def id_of(epoch: int, step: int) -> str:
    """The last segment of that name."""
    return f"{epoch:0{EPOCH_DIGITS}}-{step:0{STEP_DIGITS}}"


def position(name: CheckpointName) -> tuple[int, int]:
    """Epoch and step of a name.

    Raises:
        CheckpointNotFound: no checkpoint has such a name.
    """
    epoch, _, step = name.checkpoint.partition("-")
    if epoch.isdecimal() and step.isdecimal():
        found = int(epoch), int(step)
        if str(name_of(RunName(name.project, name.run), *found)) == str(name):
            return found
    raise CheckpointNotFound(f"{name} does not exist.", name=str(name))


def check_position(epoch: int, step: int, path: str) -> None:
    """Refuse numbers that no attempt has.

    Raises:
        InvalidArgument: naming the field below `path`.
    """
    if not 1 <= epoch < 10**EPOCH_DIGITS:
        raise InvalidArgument.of(f"{path}.epoch", f"must be 1 to {10**EPOCH_DIGITS - 1}")
    if not 0 <= step < 10**STEP_DIGITS:
        raise InvalidArgument.of(f"{path}.step", f"must be 0 to {10**STEP_DIGITS - 1}")


def check_fence(run: RunName, epoch: int, newest: int) -> None:
    """Refuse an attempt that another has replaced.

    Args:
        newest: The highest epoch that has written a checkpoint of the run; 0 for none.

    Raises:
        StaleEpoch: the attempt must stop.
    """
    if epoch < newest:
        raise StaleEpoch(
            f"Attempt {newest} of {run} has written a checkpoint: attempt {epoch} must stop.",
            run=str(run),
            epoch=str(epoch),
            newest_epoch=str(newest),
        )


@dataclass(frozen=True)
class Retention:
    """Which checkpoints of a run stay."""

    keep_last: int
    """Newest steps."""
    keep_best: int = 0
    metric: str = ""
    """By which checkpoints are best."""
    minimize: bool = False


def check_retention(keep_last: int, keep_best: int, metric: str, *, minimize: bool) -> Retention:
    """A rule under which a run can always go on.

    Raises:
        InvalidArgument
    """
    if keep_last < 1:
        raise InvalidArgument.of("keep_last", "must be 1 or more: the run goes on from the newest")
    if keep_best < 0:
        raise InvalidArgument.of("keep_best", "must not be negative")
    if keep_best and not metric:
        raise InvalidArgument.of("metric", "must say by what checkpoints are best")
    return Retention(keep_last, keep_best, metric, minimize)


def beyond(rule: Retention, stored: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Those that the rule does not keep. One that lacks the metric is never among the best."""
    newest = sorted(stored, key=lambda each: (each.step, each.epoch), reverse=True)
    kept = {each.name for each in newest[: rule.keep_last]}
    # The newest epoch fences older attempts, by a checkpoint that is there.
    kept |= {each.name for each in sorted(stored, key=lambda each: (each.epoch, each.step))[-1:]}
    measured = [each for each in newest if rule.metric in each.metrics]
    measured.sort(key=lambda each: each.metrics[rule.metric], reverse=not rule.minimize)
    kept |= {each.name for each in measured[: rule.keep_best]}
    return [each for each in newest if each.name not in kept]
