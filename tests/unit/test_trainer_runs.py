"""A run follows its job and the attempt that trains it."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios.errors import StaleEpoch
from aios.names import RunName
from services.trainer import runs
from services.trainer.runs import FINAL, NEXT, JobNews, Progress, Run, RunEnded, RunSpec, State

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SPEC = RunSpec("image_classifier", "projects/p/datasets/d/versions/v", {"epochs": 1}, model="m")
RUN = Run(RunName("p", "r"), SPEC, State.QUEUED, NOW, NOW, job_created=True)


def test_a_run_runs_while_its_job_does() -> None:
    run = runs.follow(RUN, JobNews(State.RUNNING, 1, "STARTED"), NOW)
    assert (run.state, run.reason, run.job_epoch) == (State.RUNNING, "STARTED", 1)


def test_a_job_that_ends_well_without_a_result_is_a_failed_run() -> None:
    run = runs.follow(RUN, JobNews(State.SUCCEEDED, 1, exit_code=0), NOW)
    assert (run.state, run.reason) == (State.FAILED, "NOT_COMPLETED")


def test_a_run_succeeds_only_once_its_model_is_registered() -> None:
    done = JobNews(State.SUCCEEDED, 1, exit_code=0)
    completed = runs.complete(runs.begin(RUN, 1, 0, {}, NOW), 1, b"model", "", NOW)
    waiting = runs.follow(completed, done, NOW)
    assert (waiting.state, waiting.reason) == (State.RUNNING, "REGISTERING")
    registered = runs.register(waiting, "projects/p/models/m/versions/1", NOW)
    assert runs.follow(registered, done, NOW).state is State.SUCCEEDED


def test_a_run_without_a_model_needs_no_registration() -> None:
    bare = replace(RUN, spec=replace(SPEC, model=""))
    completed = runs.complete(runs.begin(bare, 1, 0, {}, NOW), 1, b"", "", NOW)
    assert runs.follow(completed, JobNews(State.SUCCEEDED, 1), NOW).state is State.SUCCEEDED


def test_news_of_an_older_attempt_or_an_older_change_is_ignored() -> None:
    run = runs.follow(RUN, JobNews(State.RUNNING, 2, version=7), NOW)
    assert runs.follow(run, JobNews(State.FAILED, 1), NOW) == run
    assert runs.follow(run, JobNews(State.QUEUED, 2, version=6), NOW) == run


def test_an_older_attempt_is_told_to_stop_and_changes_nothing() -> None:
    run = runs.begin(RUN, 2, 0, {}, NOW)
    with pytest.raises(StaleEpoch):
        runs.report(run, 1, {"loss": 1.0}, None, NOW)
    with pytest.raises(StaleEpoch):
        runs.begin(run, 1, 0, {}, NOW)
    with pytest.raises(StaleEpoch):
        runs.complete(run, 1, b"", "", NOW)


def test_the_attempt_that_the_scheduler_has_given_up_is_stale_before_the_next_has_begun() -> None:
    begun = runs.begin(RUN, 1, 0, {}, NOW)
    requeued = runs.follow(begun, JobNews(State.STARTING, 2), NOW)
    with pytest.raises(StaleEpoch):
        runs.report(requeued, 1, {"loss": 1.0}, None, NOW)


def test_the_first_completion_counts() -> None:
    run = runs.complete(runs.begin(RUN, 1, 0, {}, NOW), 1, b"first", "", NOW)
    assert runs.complete(run, 1, b"second", "", NOW).output == b"first"


def test_a_restart_goes_back_to_its_checkpoint() -> None:
    run = runs.report(runs.begin(RUN, 1, 0, {}, NOW), 1, {"loss": 0.5}, Progress(90, 100, "train"), NOW)
    assert runs.begin(run, 2, 50, {}, NOW).progress.step == 50


def test_a_cancelled_run_without_a_job_ends_at_once_and_one_with_a_job_when_the_job_has() -> None:
    assert runs.cancel(replace(RUN, job_created=False), NOW).state is State.CANCELLED
    stopping = runs.cancel(RUN, NOW)
    assert stopping.state is State.STOPPING
    assert runs.follow(stopping, JobNews(State.RUNNING, 1), NOW).state is State.STOPPING
    assert runs.follow(stopping, JobNews(State.CANCELLED, 1), NOW).state is State.CANCELLED


def test_nothing_can_be_reported_to_a_run_that_has_ended() -> None:
    ended = runs.follow(RUN, JobNews(State.CANCELLED, 1), NOW)
    with pytest.raises(RunEnded):
        runs.report(ended, 1, {}, None, NOW)


news = st.builds(
    JobNews,
    state=st.sampled_from(State),
    epoch=st.integers(0, 4),
    version=st.integers(0, 20),
    exit_code=st.none() | st.integers(0, 255),
)


@given(st.lists(news | st.just("cancel") | st.integers(1, 4), max_size=30))
def test_whatever_comes_in_whatever_order_states_follow_the_table_and_an_end_is_final(
    steps: list[object],
) -> None:
    run = RUN
    for step in steps:
        before = run
        if isinstance(step, JobNews):
            run = runs.follow(run, step, NOW)
        elif isinstance(step, int):
            try:
                run = runs.begin(run, step, 0, {}, NOW)
            except (StaleEpoch, RunEnded):
                continue
        else:
            run = runs.cancel(run, NOW)
        assert run.state is before.state or run.state in NEXT[before.state]
        assert (run.end_time is not None) == (run.state in FINAL)
        assert run.job_epoch >= before.job_epoch
