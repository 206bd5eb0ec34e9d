"""Progress: what is learnt from it, and that a pool made anew knows what one knew that has followed all along."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from aios.errors import InvalidArgument, StaleEpoch
from aios.names import JobName
from aios.train.pace import TELL_SECONDS, Pace
from services.scheduler import jobs, progress
from services.scheduler.attempts import AttemptState
from services.scheduler.jobs import Job
from services.scheduler.nodes import Node, NodeState
from services.scheduler.pool import Pool
from services.scheduler.progress import Progress, Reports
from services.scheduler.resources import Resources
from services.scheduler.specs import JobSpec

START = datetime(2026, 1, 1, tzinfo=UTC)
NAME = JobName("p", "j")
NODE = Node("a", NodeState.READY, Resources(2000, 0, {"gpu/A": 2}))


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def waiting(asks: Resources) -> Job:
    return replace(jobs.create(NAME, JobSpec(("true",), asks), START), number=1)


def ends(job: Job, seconds: float, exit_code: int = 143) -> Job:
    assert job.attempt is not None
    said = replace(job.attempt, state=AttemptState.ENDED, exit_code=exit_code, end_time=at(seconds))
    return jobs.report(job, said, at(seconds))


def test_a_start_costs_what_passes_before_the_first_step() -> None:
    job = jobs.assign(waiting(Resources(1000)), ["a"], Resources(1000), at(10))
    first = jobs.progressed(job, Progress(1, step=100, restored_step=100, steps_per_second=2.0), at(40))
    assert first.load_time is None, "it has made no step yet"
    second = jobs.progressed(replace(job, progress=first), replace(first, step=120), at(60))
    assert second.load_time == timedelta(seconds=40)
    later = jobs.progressed(replace(job, progress=second), replace(second, step=500), at(600))
    assert later.load_time == timedelta(seconds=40), "seen once in an attempt"


def test_only_the_present_attempt_counts() -> None:
    job = waiting(Resources(1000))
    with pytest.raises(StaleEpoch):
        jobs.progressed(job, Progress(1, step=1), START)
    job = ends(jobs.preempt(jobs.assign(job, ["a"], Resources(1000), at(1)), at(2)), 3)
    with pytest.raises(StaleEpoch):
        jobs.progressed(job, Progress(1, step=1), at(4))


@pytest.mark.parametrize("said", [{"step": -1}, {"step": 1, "steps_per_second": float("nan")}])
def test_what_cannot_be_is_refused(said: dict[str, float]) -> None:
    with pytest.raises(InvalidArgument):
        progress.check(Progress(1, **said))  # type: ignore[arg-type]


def test_reports_are_kept_until_stored_and_an_older_attempt_comes_too_late() -> None:
    reports, old, new = Reports(), Progress(1, step=5), Progress(2, step=3)
    reports.put(NAME, new)
    reports.put(NAME, old)
    assert reports.newest(NAME, None) == new
    written = dict(reports.unsaved)
    later = replace(new, step=4)
    reports.put(NAME, later)
    reports.saved(written)
    assert dict(reports.unsaved) == {NAME: later}, "said while the other was being written"
    reports.keep(lambda _: False)
    assert reports.newest(NAME, None) == later
    reports.saved(reports.unsaved)
    reports.keep(lambda _: False)
    assert reports.newest(NAME, None) is None


@pytest.mark.parametrize("asks", [Resources(1000), Resources(1000, 0, {"gpu": 2})])
def test_a_pool_made_anew_knows_what_one_knew_that_followed(asks: Resources) -> None:
    granted = Resources(asks.cpu_millis, 0, {"gpu/A": 2} if asks.accelerators else {})
    waits = waiting(asks)
    starts = jobs.assign(waits, ["a"], granted, at(100))
    said = Progress(1, 50, 1000, 0.5, saved_step=40, saves=True, load_time=timedelta(seconds=20))
    runs = replace(starts, progress=said)
    stopped = ends(jobs.preempt(runs, at(300)), 310)
    again = jobs.assign(stopped, ["a"], granted, at(400))
    goes_on = replace(again, progress=replace(said, epoch=2, step=60, restored_step=50))
    lost = jobs.lose(goes_on, at(700), "a")
    followed = Pool()
    for job, seconds in [
        (waits, 0), (starts, 100), (runs, 200), (stopped, 310), (again, 400), (goes_on, 600), (lost, 700)
    ]:  # fmt: skip
        anew = Pool()
        for pool in (followed, anew):
            pool.follow([job], [NODE], at(seconds))
        one, other = followed.snapshot, anew.snapshot
        slot = one.slots[str(NAME)]
        one.touch(slot, at(seconds).timestamp())
        other.touch(slot, at(seconds).timestamp())
        known = ["ran", "waited", "attained", "work", "restart", "state", "saves", "kind"]
        # How far it goes on from, beyond its checkpoint, nobody knows anew until it says so.
        known += ["done", "begun", "pace"] if job is not again else []
        for column in known:
            expected, found = getattr(one, column)[slot], getattr(other, column)[slot]
            assert np.isclose(expected, found), (job.state, seconds, column, expected, found)
    slot = followed.snapshot.slots[str(NAME)]
    assert followed.snapshot.done[slot] == 40, "gone with the node is what was made since the checkpoint"
    assert followed.snapshot.ran[slot] == 210 + 300


def test_the_sdk_tells_now_and_then_with_the_speed_of_late() -> None:
    pace = Pace()
    pace.restored(100)
    assert pace.due(0.0)
    assert pace.at(110, 1000, 0.0).steps_per_second == 0
    assert not pace.due(TELL_SECONDS - 1)
    assert pace.due(TELL_SECONDS)
    told = pace.at(120, 1000, TELL_SECONDS)
    assert (told.steps_per_second, told.restored_step, told.saved_step) == (10 / TELL_SECONDS, 100, 100)
    for n in range(2, 40):
        told = pace.at(120 + 20 * (n - 1), 1000, n * TELL_SECONDS)
    assert told.steps_per_second == pytest.approx(20 / TELL_SECONDS)
