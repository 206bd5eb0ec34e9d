"""A job's life: every sequence of what may happen keeps the promises."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aios.errors import StaleEpoch
from aios.names import JobName
from aios.scheduling import Scheduling
from services.scheduler import attempts, jobs
from services.scheduler.attempts import LIVE, Attempt, AttemptState
from services.scheduler.jobs import FINAL, HOLDS_RESOURCES, NEXT, Job, State
from services.scheduler.resources import Resources
from services.scheduler.specs import JobSpec, Kind

NAME = JobName("p", "j")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
HELD = Resources(100)


def queued(kind: Kind = Kind.BATCH, max_restarts: int = 0) -> Job:
    return jobs.create(NAME, JobSpec(("true",), HELD, kind, max_restarts=max_restarts), NOW)


def running(kind: Kind = Kind.BATCH, max_restarts: int = 0) -> Job:
    job = jobs.assign(queued(kind, max_restarts), ["a"], HELD, NOW)
    return jobs.report(job, said(job, AttemptState.RUNNING), NOW)


def said(job: Job, state: AttemptState, **more: object) -> Attempt:
    assert job.attempt is not None
    return replace(Attempt(NAME, job.epoch, job.attempt.node, state), **more)  # type: ignore[arg-type]


def ended(job: Job, code: int | None, reason: str = "", ran: float = 0.0) -> Job:
    end = NOW + timedelta(seconds=ran)
    report = said(job, AttemptState.ENDED, exit_code=code, end_reason=reason, start_time=NOW, end_time=end)
    return jobs.report(job, report, end)


class Lifecycle(RuleBasedStateMachine):
    """One job under arbitrary assignments, reports (current and stale), losses and cancels."""

    def __init__(self) -> None:
        super().__init__()
        spec = JobSpec(
            ("true",), HELD, max_restarts=2, scheduling=Scheduling(max_run_time=timedelta(seconds=9))
        )
        self.job = jobs.create(NAME, spec, NOW)
        self.finals: list[State] = []

    def become(self, job: Job) -> None:
        if job.state is not self.job.state:
            assert job.state in NEXT[self.job.state]
            self.finals += [job.state] if job.state in FINAL else []
        self.job = job

    @precondition(lambda self: self.job.state is State.QUEUED)
    @rule()
    def assign(self) -> None:
        before = self.job.epoch
        self.become(jobs.assign(self.job, ["a"], HELD, NOW))
        assert self.job.epoch == before + 1

    @rule()
    def preempt(self) -> None:
        self.become(jobs.preempt(self.job, NOW))

    @precondition(lambda self: self.job.attempt is not None)
    @rule(
        behind=st.integers(0, 2),
        state=st.sampled_from([AttemptState.RUNNING, AttemptState.ENDED]),
        code=st.sampled_from([0, 1, None]),
        reason=st.sampled_from(["", "START_FAILED", "NODE_STOPPED", "LEASE_EXPIRED"]),
    )
    def report(self, behind: int, state: AttemptState, code: int | None, reason: str) -> None:
        ending = {"exit_code": code, "end_reason": reason} if state is AttemptState.ENDED else {}
        report = replace(said(self.job, state, **ending), epoch=self.job.epoch - behind)
        before = self.job
        try:
            self.become(jobs.report(self.job, report, NOW))
        except StaleEpoch:
            assert self.job is before
        else:
            assert behind == 0
            assert (
                jobs.report(self.job, report, NOW) == self.job
                if report.state is not AttemptState.RUNNING
                else True
            )

    @precondition(lambda self: self.job.state in HOLDS_RESOURCES)
    @rule()
    def lose(self) -> None:
        failures = self.job.failures
        self.become(jobs.lose(self.job, NOW, "a"))
        assert self.job.failures == failures

    @precondition(lambda self: jobs.overdue(self.job, NOW + timedelta(seconds=10)))
    @rule()
    def overrun(self) -> None:
        self.become(jobs.overrun(self.job, NOW))

    @rule()
    def cancel(self) -> None:
        self.become(jobs.cancel(self.job, NOW))
        assert self.job.state is State.STOPPING or self.job.state in FINAL

    @invariant()
    def ends_at_most_once(self) -> None:
        assert len(self.finals) <= 1
        assert (self.job.end_time is not None) == (self.job.state in FINAL)

    @invariant()
    def holds_resources_exactly_while_an_attempt_lives(self) -> None:
        alive = self.job.attempt is not None and self.job.attempt.state in LIVE
        assert alive == (self.job.state in HOLDS_RESOURCES)

    @invariant()
    def keeps_its_restart_budget(self) -> None:
        assert self.job.failures <= self.job.spec.max_restarts + 1


TestLifecycle = Lifecycle.TestCase


def test_exit_code_zero_is_success_and_anything_else_is_not() -> None:
    assert ended(running(), 0).state is State.SUCCEEDED
    failed = ended(running(), 137)
    assert (failed.state, failed.reason, failed.message) == (
        State.FAILED,
        "EXIT_CODE",
        "attempt 1 ended with signal 9",
    )


def test_restarts_are_counted_and_the_pause_grows() -> None:
    job, pauses = running(max_restarts=3), []
    while (job := ended(job, 1)).state is State.QUEUED:
        pauses.append((job.retry_time or job.update_time) - job.update_time)
        job = jobs.report(
            (started := jobs.assign(job, ["a"], HELD, NOW)), said(started, AttemptState.RUNNING), NOW
        )
    assert [pause.total_seconds() for pause in pauses] == [0, 1, 2]
    assert (job.state, job.failures, job.epoch) == (State.FAILED, 4, 4)


def test_an_attempt_that_ran_for_long_makes_the_next_restart_the_first_again() -> None:
    job = replace(running(Kind.SERVICE), streak=9)
    assert ended(job, 1).retry_time == NOW + jobs.PAUSE_MAX
    assert ended(job, 1, ran=61).retry_time is None


@pytest.mark.parametrize("reason", sorted(attempts.PLATFORM_ENDS))
def test_what_the_platform_did_costs_no_restart(reason: str) -> None:
    job = ended(running(), None, reason)
    assert (job.state, job.reason, job.failures) == (State.QUEUED, reason, 0)


def test_a_service_never_ends_by_itself() -> None:
    assert ended(running(Kind.SERVICE), 0).state is State.QUEUED


def test_a_cancelled_job_stays_cancelled_whatever_its_process_says() -> None:
    for code in (0, 1, 143):
        assert ended(jobs.cancel(running(), NOW), code).state is State.CANCELLED
    assert jobs.lose(jobs.cancel(running(), NOW), NOW, "a").state is State.CANCELLED


def test_a_lost_attempt_has_no_voice() -> None:
    job = running()
    lost = jobs.lose(job, NOW, "a")
    for state in (AttemptState.RUNNING, AttemptState.ENDED):
        with pytest.raises(StaleEpoch):
            jobs.report(lost, said(job, state, exit_code=0), NOW)


def test_a_node_cannot_speak_for_an_attempt_of_another() -> None:
    job = running()
    with pytest.raises(StaleEpoch):
        jobs.report(job, replace(said(job, AttemptState.ENDED), node="b"), NOW)


def test_a_job_stopped_for_others_waits_again_whatever_its_exit_code() -> None:
    for code in (0, 143, None):
        job = ended(jobs.preempt(running(), NOW), code)
        assert (job.state, job.reason, job.failures) == (State.QUEUED, jobs.PREEMPTED, 0)
        assert job.retry_time is None


def test_a_job_stopped_for_others_can_still_be_cancelled() -> None:
    job = jobs.cancel(jobs.preempt(running(), NOW), NOW)
    assert (job.state, job.reason) == (State.STOPPING, jobs.CANCEL_REQUESTED)
    assert ended(job, 143).state is State.CANCELLED
    assert jobs.lose(jobs.preempt(running(), NOW), NOW, "a").state is State.QUEUED


def test_only_what_runs_is_stopped_for_others() -> None:
    assert jobs.preempt(queued(), NOW) == queued()
    stopping = jobs.cancel(running(), NOW)
    assert jobs.preempt(stopping, NOW) == stopping


def limited(seconds: float) -> Job:
    spec = JobSpec(("true",), HELD, scheduling=Scheduling(max_run_time=timedelta(seconds=seconds)))
    return jobs.assign(jobs.create(NAME, spec, NOW), ["a"], HELD, NOW)


def ends_after(job: Job, after: float) -> Job:
    end = NOW + timedelta(seconds=after)
    return jobs.report(job, said(job, AttemptState.ENDED, exit_code=143, end_time=end), end)


def test_what_has_run_for_as_long_as_it_may_is_stopped_and_fails() -> None:
    job = limited(100)
    assert not jobs.overdue(job, NOW + timedelta(seconds=100))
    assert jobs.overdue(job, NOW + timedelta(seconds=101))
    stopping = jobs.overrun(job, NOW + timedelta(seconds=101))
    assert not jobs.overdue(stopping, NOW + timedelta(seconds=200)), "it is being stopped"
    for after in (ends_after(stopping, 105), jobs.lose(stopping, NOW + timedelta(seconds=105), "a")):
        assert (after.state, after.reason) == (State.FAILED, "MAX_RUN_TIME")
    assert jobs.cancel(stopping, NOW).reason == "CANCEL_REQUESTED"


def test_earlier_attempts_count_and_waits_do_not() -> None:
    stopped = ends_after(jobs.preempt(limited(100), NOW), 60)
    assert (stopped.state, stopped.ran) == (State.QUEUED, timedelta(seconds=60))
    later = NOW + timedelta(days=1)
    again = jobs.assign(stopped, ["a"], HELD, later)
    assert again.waited == later - NOW - timedelta(seconds=60)
    assert not jobs.overdue(again, later + timedelta(seconds=40))
    assert jobs.overdue(again, later + timedelta(seconds=41))
    lost = jobs.lose(again, later + timedelta(seconds=41), "a")
    assert (lost.state, lost.reason) == (State.FAILED, "MAX_RUN_TIME"), (
        "it has nothing left to start again for"
    )
