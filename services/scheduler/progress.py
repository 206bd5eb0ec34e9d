"""How far jobs say that they have come. Reports are many and each replaces the last: kept here, stored in groups."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from aios.errors import InvalidArgument
from aios.names import JobName

SAVE_SECONDS = 5.0
"""Between two groups: what a crash of the scheduler may forget, and what jobs say again in their next report."""
STEPS_MAX = 2**53
"""Beyond it steps are no longer told apart as floating-point numbers, in which the engine counts them."""


@dataclass(frozen=True)
class Progress:
    """What the process of an attempt says of its work, in steps.

    Attributes:
        epoch: The attempt that said so.
        total_steps: 0 while unknown, as is `steps_per_second`.
        saved_step: Of the newest checkpoint.
        restored_step: What the attempt went on from.
        saves: Whether it saves its work when it is asked to stop.
        load_time: From being sent to a node to the first step, in the newest attempt that made one.
    """

    epoch: int
    step: int
    total_steps: int = 0
    steps_per_second: float = 0.0
    saved_step: int = 0
    restored_step: int = 0
    saves: bool = False
    load_time: timedelta | None = None
    update_time: datetime | None = None


def check(said: Progress) -> Progress:
    """Return what a process says if it can be so.

    Raises:
        InvalidArgument: with every wrong field and what to change.
    """
    steps = {
        "step": said.step,
        "total_steps": said.total_steps,
        "saved_step": said.saved_step,
        "restored_step": said.restored_step,
    }
    wrong = {
        f"progress.{field}": "must be a count of steps"
        for field, count in steps.items()
        if not 0 <= count <= STEPS_MAX
    }
    if not 0 <= said.steps_per_second < math.inf:
        wrong["progress.steps_per_second"] = "must be a finite number of 0 or more"
    if wrong:
        raise InvalidArgument.of_all(wrong)
    return said


class Reports:
    """The newest report of each job, and which of them are not stored yet."""

    def __init__(self) -> None:
        self._newest: dict[JobName, Progress] = {}
        self._unsaved: set[JobName] = set()

    def put(self, job: JobName, progress: Progress) -> None:
        """A job has said so. What an older attempt has said comes too late."""
        known = self._newest.get(job)
        if known is not None and known.epoch > progress.epoch:
            return
        self._newest[job] = progress
        self._unsaved.add(job)

    def newest(self, job: JobName, stored: Progress | None) -> Progress | None:
        """The newest of a job, which may not be stored yet."""
        return self._newest.get(job, stored)

    @property
    def unsaved(self) -> Mapping[JobName, Progress]:
        """What is not stored yet."""
        return {job: self._newest[job] for job in self._unsaved}

    def saved(self, written: Mapping[JobName, Progress]) -> None:
        """These are stored."""
        self._unsaved -= {job for job, progress in written.items() if self._newest.get(job) is progress}

    def keep(self, lives: Callable[[JobName], bool]) -> None:
        """Forget what is stored of jobs that have ended."""
        for job in [job for job in self._newest if job not in self._unsaved and not lives(job)]:
            del self._newest[job]
