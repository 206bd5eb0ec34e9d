"""Job logs: exact bytes whatever is sent twice, late or while someone reads."""

import asyncio
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios.names import JobName
from services.scheduler import jobs, logs
from services.scheduler.attempts import Attempt, AttemptState
from services.scheduler.jobs import Job, State
from services.scheduler.logs import LogNotFound, Logs
from services.scheduler.resources import Resources
from services.scheduler.specs import JobSpec

NAME = JobName("p", "j")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class World:
    """A job that a test moves on, and readers of its log."""

    def __init__(self, root: Path, epoch: int = 1, state: State = State.RUNNING) -> None:
        self.logs = Logs(root)
        self.happened = asyncio.Event()
        self.job = jobs.create(NAME, JobSpec(("true",), Resources(1)), NOW)
        self.become(epoch, state)

    def become(self, epoch: int, state: State, attempt: AttemptState = AttemptState.RUNNING) -> None:
        self.job = replace(self.job, epoch=epoch, state=state, attempt=Attempt(NAME, epoch, "a", attempt))
        self.happened.set()
        self.happened = asyncio.Event()

    async def current(self) -> Job:
        return self.job

    async def read(self, epoch: int = 0, offset: int = 0, *, follow: bool = False) -> bytes:
        pieces = self.logs.read(
            NAME, epoch, offset, follow=follow, current=self.current, changed=lambda: self.happened.wait()
        )
        return b"".join([piece.data async for piece in pieces])


@given(
    text=st.binary(max_size=60),
    cuts=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=30),
)
@settings(max_examples=40, deadline=None)
def test_pieces_in_any_order_with_repeats_make_the_text(
    tmp_path_factory: pytest.TempPathFactory, text: bytes, cuts: list[tuple[int, int]]
) -> None:
    async def push() -> None:
        root = tmp_path_factory.mktemp("logs")
        world = World(root)
        stored = 0
        for offset, length in cuts:
            stored = await world.logs.append(NAME, 1, offset, text[offset : offset + length], end=False)
            assert (root / "p" / "j" / "1.log").read_bytes() == text[:stored] if stored else True
        stored = await Logs(root).append(NAME, 1, stored, text[stored:], end=True)
        assert stored == len(text)
        assert await World(root).read() == text

    asyncio.run(push())


async def test_a_follower_sees_all_attempts_and_ends_with_the_job(tmp_path: Path) -> None:
    world = World(tmp_path, epoch=0, state=State.QUEUED)
    reader = asyncio.create_task(world.read(follow=True))
    await asyncio.sleep(0.01)
    world.become(1, State.RUNNING)
    await world.logs.append(NAME, 1, 0, b"one ", end=False)
    await asyncio.sleep(0.01)
    await world.logs.append(NAME, 1, 4, b"", end=True)
    world.become(1, State.QUEUED, AttemptState.ENDED)
    await asyncio.sleep(0.01)
    world.become(2, State.RUNNING)
    await world.logs.append(NAME, 2, 0, b"two", end=True)
    assert not reader.done()
    world.become(2, State.SUCCEEDED, AttemptState.ENDED)
    async with asyncio.timeout(1):
        assert await reader == b"one two"


async def test_a_follower_of_one_attempt_ends_with_that_attempt(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.logs.append(NAME, 1, 0, b"one", end=True)
    reader = asyncio.create_task(world.read(epoch=1, follow=True))
    await asyncio.sleep(0.01)
    world.become(2, State.RUNNING)
    async with asyncio.timeout(1):
        assert await reader == b"one"


async def test_a_lost_attempt_does_not_keep_its_reader_waiting(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.logs.append(NAME, 1, 0, b"as far as it came", end=False)
    world.become(1, State.CANCELLED, AttemptState.LOST)
    async with asyncio.timeout(1):
        assert await world.read(follow=True) == b"as far as it came"


async def test_what_is_not_there_yet_is_said(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert await world.read() == b""
    with pytest.raises(LogNotFound, match="has had 1 attempts, not 2"):
        await world.read(epoch=2)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
async def test_a_full_disk_keeps_nothing_of_a_piece(tmp_path: Path) -> None:
    world = World(tmp_path)
    (tmp_path / "p" / "j").mkdir(parents=True)
    (tmp_path / "p" / "j" / "1.log").symlink_to("/dev/full")
    with pytest.raises(logs.LogsFull):
        await world.logs.append(NAME, 1, 0, b"lost", end=True)
    (tmp_path / "p" / "j" / "1.log").unlink()
    assert await world.logs.append(NAME, 1, 0, b"kept", end=True) == 4
