"""The gate in front of a service's work: few at a time, newest first, nobody for ever."""

import asyncio

import pytest

from aios.runtime import gate
from aios.runtime.gate import Gate, Overloaded, aside


async def hold(one: Gate, done: list[str], name: str, until: asyncio.Event) -> None:
    async with one.inside():
        done.append(name)
        await until.wait()


async def queued(one: Gate, names: str, done: list[str], until: asyncio.Event) -> list[asyncio.Task[None]]:
    tasks = []
    for name in names:
        tasks.append(asyncio.create_task(hold(one, done, name, until)))
        await asyncio.sleep(0)
    return tasks


async def test_no_more_are_worked_on_than_allowed_and_the_newest_goes_next() -> None:
    done: list[str] = []
    first, others = asyncio.Event(), asyncio.Event()
    others.set()
    one = Gate(1)
    tasks = await queued(one, "a", done, first)
    tasks += await queued(one, "bcd", done, others)
    assert done == ["a"]
    first.set()
    await asyncio.gather(*tasks)
    assert done == ["a", "d", "c", "b"]


async def test_who_has_waited_too_long_is_refused_and_told_when_to_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gate, "WAIT_SECONDS_MAX", 0.05)
    done: list[str] = []
    until, one = asyncio.Event(), Gate(1)
    tasks = await queued(one, "ab", done, until)
    with pytest.raises(Overloaded) as refused:
        await tasks[1]
    assert refused.value.retry_after
    assert refused.value.reason == "OVERLOADED"
    until.set()
    await tasks[0]
    async with asyncio.timeout(1), one.inside():
        pass


async def test_more_than_can_wait_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "WAITING_MAX", 1)
    until, one = asyncio.Event(), Gate(1)
    tasks = await queued(one, "ab", [], until)
    with pytest.raises(Overloaded):
        await hold(one, [], "c", until)
    until.set()
    await asyncio.gather(*tasks)


async def test_a_caller_that_goes_away_leaves_its_place() -> None:
    done: list[str] = []
    until, one = asyncio.Event(), Gate(1)
    working, waiting = await queued(one, "ab", done, until)
    waiting.cancel()
    working.cancel()
    await asyncio.wait({working, waiting})
    until.set()
    async with asyncio.timeout(1):
        await asyncio.gather(*await queued(one, "cd", done, until))


async def test_no_place_is_lost_when_a_caller_gives_up_as_its_turn_comes() -> None:
    for yields in range(4):
        until, one = asyncio.Event(), Gate(1)
        first, second = await queued(one, "ab", [], until)
        second.cancel()
        until.set()
        for _ in range(yields):
            await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait({first, second})
        async with asyncio.timeout(1), one.inside():
            pass


async def test_while_a_call_waits_for_another_process_the_next_is_worked_on() -> None:
    done: list[str] = []
    until, one = asyncio.Event(), Gate(1)

    async def asks_another() -> None:
        async with one.inside():
            with aside():
                await until.wait()
            done.append("asked")

    asking = asyncio.create_task(asks_another())
    await asyncio.sleep(0)
    ready = asyncio.Event()
    ready.set()
    await asyncio.gather(*await queued(one, "b", done, ready))
    assert done == ["b"]
    until.set()
    await asking
    assert done == ["b", "asked"]
    async with asyncio.timeout(1), one.inside():
        pass
