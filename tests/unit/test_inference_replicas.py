"""Whose word counts about a replica: its own, the scheduler's, and of which attempt."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios.errors import InvalidArgument, StaleEpoch
from aios.names import RevisionName
from services.inference import replicas
from services.inference.replicas import FAILURES_MAX, Address, JobNews, Replica, State, follow, report
from services.inference.stopwatches import Stopwatches

ADDRESS = Address("127.0.0.1", 8000, 8001)
NEW = replicas.plan(RevisionName("demo", "web", "2"), 0)
READY = report(NEW, 1, State.READY, "", ADDRESS)
QUEUED = JobNews(False, False, False, False, False, 0, "waits for cpu")
RUNNING = JobNews(False, False, True, False, False, 1, "runs")
CRASHED = JobNews(False, False, False, True, False, 1, "exit code 1")
LOST = JobNews(False, False, False, True, True, 1, "its node fell silent")

TOLD = st.builds(
    JobNews,
    final=st.booleans(),
    failed=st.booleans(),
    started=st.booleans(),
    over=st.booleans(),
    blameless=st.booleans(),
    epoch=st.integers(0, 3),
    message=st.just(""),
)


def test_its_job_is_named_after_its_revision_and_fits_into_a_name() -> None:
    longest = replicas.plan(RevisionName("demo", "w" * 40, "99999999"), 99_999_999)
    assert NEW.job.job == "web-r2-0"
    assert len(longest.job.job) <= 63


def test_it_waits_loads_answers_and_falls_silent() -> None:
    waiting = follow(NEW, QUEUED)
    assert (waiting.state, waiting.message) == (State.WAITING, "waits for cpu")
    loading = follow(waiting, RUNNING)
    assert (loading.state, loading.epoch) == (State.STARTING, 1)
    ready = report(loading, 1, State.READY, "", ADDRESS)
    assert (ready.state, ready.address) == (State.READY, ADDRESS)
    silent = replicas.fall_silent(ready, 6)
    assert (silent.state, silent.address) == (State.SILENT, ADDRESS)
    assert report(silent, 1, State.READY, "", ADDRESS).state is State.READY


def test_one_attempt_that_failed_counts_once_however_often_it_is_told() -> None:
    failed = report(NEW, 1, State.FAILED, "no such operator", None)
    assert follow(failed, RUNNING) == failed, "its process is about to end"
    told = follow(follow(failed, CRASHED), CRASHED)
    assert (told.failures, told.message) == (1, "no such operator")
    assert follow(told, replace(CRASHED, epoch=2)).failures == 2


def test_an_attempt_that_the_platform_ended_is_no_failure_of_the_model() -> None:
    lost = follow(READY, LOST)
    assert (lost.state, lost.failures, lost.address) == (State.FAILED, 0, None)


def test_a_job_that_failed_for_good_counts_as_every_failure_at_once() -> None:
    ended = follow(NEW, replace(CRASHED, final=True, failed=True))
    assert (ended.state, ended.failures) == (State.ENDED, FAILURES_MAX)


def test_an_older_attempt_has_no_say() -> None:
    second = report(READY, 2, State.STARTING, "", ADDRESS)
    assert (second.state, second.address) == (State.STARTING, None)
    with pytest.raises(StaleEpoch):
        report(second, 1, State.READY, "", ADDRESS)
    assert follow(second, CRASHED) == second


def test_a_ready_replica_must_say_where() -> None:
    with pytest.raises(InvalidArgument, match="host"):
        report(NEW, 1, State.READY, "", None)


@given(st.lists(TOLD))
def test_whatever_the_scheduler_says_epochs_never_go_back_and_an_end_is_an_end(told: list[JobNews]) -> None:
    before = READY
    for each in told:
        after: Replica = follow(before, each)
        assert after.epoch >= before.epoch
        assert (after.address is None) or after.state in (State.READY, State.SILENT)
        assert before.state is not State.ENDED or after == before
        assert follow(after, each) == after, "heard twice"
        before = after


def test_a_stopwatch_counts_from_when_a_thing_was_first_seen_or_restarted() -> None:
    watch: Stopwatches[str] = Stopwatches()
    assert watch.lasting(["a"], 100.0, 6) == frozenset()
    watch.restart("b", 103.0)
    assert watch.lasting(["a", "b"], 106.0, 6) == {"a"}
    watch.restart("a", 107.0)
    assert watch.lasting(["a", "b"], 109.0, 6) == {"b"}
    assert watch.lasting([], 110.0, 6) == frozenset()
    assert watch.lasting(["b"], 111.0, 6) == frozenset(), "gone and back is new"
