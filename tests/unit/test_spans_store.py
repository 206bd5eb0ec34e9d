"""The span store: bounded, survives a restart, gives each project its own."""

from pathlib import Path

import pytest

from aios.errors import ResourceExhausted
from aios.records import Page
from aios.telemetry.v1.trace_service_pb2 import ListTracesRequest
from gateway.telemetry.spans import SPANS_PER_TRACE_MAX, Span, Summary, TraceNotFound
from gateway.telemetry.store import PENDING_SPANS_MAX, SpanStore


def span(trace: int, number: int = 0, start: int = 0, project: str | None = "p") -> Span:
    begin = start or 1000 * trace + number
    return Span(
        f"{trace:032x}", f"{number:016x}", "", f"step {number}", "svc", begin, begin + 10, project, {"k": "v"}
    )


async def opened(path: Path, **limits: int) -> SpanStore:
    return await SpanStore.open(path / "spans.db", **limits)


async def listed(
    store: SpanStore, project: str = "p", *, unowned: bool = False, size: int = 50
) -> list[Summary]:
    found: list[Summary] = []
    request = ListTracesRequest(parent=f"projects/{project}", page_size=size)
    while True:
        page, request.page_token = await store.list(Page.of(request), project, with_unowned=unowned)
        found += page
        if not request.page_token:
            return found


async def test_spans_come_back_by_start_after_a_restart(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    store.add([span(1, 2), span(1, 1)])
    store.add([span(1, 0)])
    await store.close()
    store = await opened(tmp_path)
    assert await store.get(f"{1:032x}", "p") == [span(1, 0), span(1, 1), span(1, 2)]
    await store.close()


async def test_a_span_sent_twice_is_kept_once(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    store.add([span(1), span(1)])
    assert len(await store.get(f"{1:032x}", None)) == 1
    store.add([span(1), span(1, 1)])
    assert len(await store.get(f"{1:032x}", None)) == 2
    assert [summary.spans for summary in await listed(store)] == [2]
    await store.close()


async def test_traces_are_listed_newest_first_in_pages(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    store.add([span(number) for number in range(1, 8)])
    assert [int(summary.trace, 16) for summary in await listed(store, size=3)] == [7, 6, 5, 4, 3, 2, 1]
    await store.close()


async def test_late_spans_move_the_start_and_the_root(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    store.add([span(1, 5, start=500)])
    await store.get(f"{1:032x}", None)
    store.add([span(1, 6, start=400), span(1, 7, start=900)])
    (summary,) = await listed(store)
    assert (summary.root, summary.start, summary.end) == ("step 6", 400, 910)
    await store.close()


async def test_a_project_sees_its_own_spans_and_those_of_its_trace(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    store.add([span(1, 0, project=None), span(1, 1, project="mine")])
    await store.get(f"{1:032x}", None)
    store.add([span(1, 2, project="theirs"), span(2, 0, project=None)])
    trace = f"{1:032x}"
    assert [s.project for s in await store.get(trace, "mine")] == [None, "mine"]
    # Who joins a trace later sees what it sent itself.
    assert [s.project for s in await store.get(trace, "theirs")] == ["theirs"]
    assert len(await store.get(trace, None)) == 3
    with pytest.raises(TraceNotFound):
        await store.get(trace, "strangers")
    with pytest.raises(TraceNotFound):
        await store.get(f"{2:032x}", "mine")
    assert len(await listed(store, "mine")) == 1
    assert await listed(store, "theirs") == []
    assert len(await listed(store, "mine", unowned=True)) == 2
    await store.close()


async def test_the_oldest_traces_make_room_whole(tmp_path: Path) -> None:
    store = await opened(tmp_path, rows_max=100)
    for trace in range(1, 31):
        store.add([span(trace, number) for number in range(5)])
    kept = await listed(store)
    assert 80 <= sum(summary.spans for summary in kept) <= 100
    assert [int(summary.trace, 16) for summary in kept] == list(range(30, 30 - len(kept), -1))
    for summary in kept:
        assert len(await store.get(summary.trace, "p")) == 5
    with pytest.raises(TraceNotFound):
        await store.get(f"{1:032x}", None)
    await store.close()


async def test_bytes_are_bounded_too(tmp_path: Path) -> None:
    store = await opened(tmp_path, bytes_max=10 * span(1).size)
    store.add([span(trace) for trace in range(1, 31)])
    assert len(await listed(store)) == 9
    await store.close()


async def test_one_trace_cannot_fill_the_store(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    store.add([span(1, number) for number in range(SPANS_PER_TRACE_MAX + 10)])
    assert len(await store.get(f"{1:032x}", None)) == SPANS_PER_TRACE_MAX
    await store.close()


async def test_more_than_the_disk_can_take_is_refused(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    with pytest.raises(ResourceExhausted):
        store.add([span(1, number) for number in range(PENDING_SPANS_MAX + 1)])
    await store.close()


@pytest.mark.parametrize("content", [b"this is no database at all" * 100, b""])
async def test_a_damaged_file_is_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "spans.db").write_bytes(content)
    store = await opened(tmp_path)
    store.add([span(1)])
    assert len(await store.get(f"{1:032x}", None)) == 1
    await store.close()
