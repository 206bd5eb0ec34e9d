"""What watchers are told of a job is its message as JSON, however it was made."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from aios.names import JobName
from services.scheduler import jobs, mapping
from services.scheduler.announce import announced
from services.scheduler.attempts import Attempt, AttemptState
from services.scheduler.jobs import Job, State
from services.scheduler.progress import Progress
from services.scheduler.resources import Resources
from services.scheduler.specs import JobSpec

NAME = JobName("p", "j")
moments = st.builds(
    lambda seconds, micros, hours: (
        datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=hours)))
        + timedelta(seconds=seconds, microseconds=micros)
    ),
    st.integers(0, 10**8),
    st.sampled_from([0, 1, 1000, 120_000, 123_456, 999_999]),
    st.sampled_from([0, 2]),
)
maybe = st.none() | moments
attempts = st.builds(
    Attempt,
    st.just(NAME),
    st.integers(0, 2**40),
    st.just("a"),
    st.sampled_from(AttemptState),
    host=st.sampled_from(["", "127.0.0.1"]),
    ports=st.dictionaries(st.sampled_from(["http", "grpc"]), st.integers(1, 65535)),
    exit_code=st.sampled_from([None, 0, 143]),
    end_reason=st.sampled_from(["", "NODE_LOST"]),
    assign_time=maybe,
    start_time=maybe,
    end_time=maybe,
)


@given(
    made=moments,
    state=st.sampled_from(State),
    epoch=st.integers(0, 2**40),
    message=st.text(max_size=5),
    version=st.integers(0, 9),
    end=maybe,
    attempt=st.none() | attempts,
    progress=st.sampled_from([None, Progress(0, 0), Progress(2, 5, 10, load_time=timedelta(seconds=3))]),
)
def test_it_is_the_message_as_json(
    made: datetime,
    state: State,
    epoch: int,
    message: str,
    version: int,
    end: datetime | None,
    attempt: Attempt | None,
    progress: Progress | None,
) -> None:
    spec = JobSpec(("true", "x"), Resources(1000, 1 << 30, {"gpu": 1}), environment={"A": "b"})
    job = replace(
        jobs.create(NAME, spec, made.astimezone(UTC)),
        state=state,
        epoch=epoch,
        message=message,
        version=version,
        end_time=end,
        attempt=attempt,
        progress=progress,
    )
    assert announced(job) == mapping.as_json(mapping.job_to_proto(job))


def test_a_spec_is_told_as_it_is_though_another_one_was_told_before() -> None:
    def job(word: str) -> Job:
        return jobs.create(NAME, JobSpec((word,), Resources(1)), datetime(2026, 1, 1, tzinfo=UTC))

    for n in range(mapping.SPECS_KEPT + 10):
        assert announced(job(f"c{n}"))["spec"]["command"] == [f"c{n}"]
