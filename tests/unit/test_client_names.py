"""Short names, pages, and the client without `await`."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aios.client.connection import Connection, pages
from aios.client.credentials import Credentials
from aios.client.sync import Client
from aios.client.transfer import find
from aios.errors import InvalidArgument, NotFound
from aios.names import DatasetName, DatasetVersionName, ModelVersionName, Name, NodeName, RunName

HERE = Credentials("http://127.0.0.1:1", "team", "token")


@pytest.mark.parametrize(
    ("kind", "text", "full"),
    [
        (RunName, "r1", "projects/team/runs/r1"),
        (RunName, "runs/r1", "projects/team/runs/r1"),
        (RunName, "projects/other/runs/r1", "projects/other/runs/r1"),
        (ModelVersionName, "digits/3", "projects/team/models/digits/versions/3"),
        (ModelVersionName, "digits/@champion", "projects/team/models/digits/versions/@champion"),
        (ModelVersionName, "models/digits/versions/3", "projects/team/models/digits/versions/3"),
        (NodeName, "vm", "nodes/vm"),
        (NodeName, "nodes/vm", "nodes/vm"),
    ],
)
def test_a_name_may_be_short(kind: type[Name], text: str, full: str) -> None:
    assert str(Connection(HERE).name(kind, text)) == full


@pytest.mark.parametrize("text", ["", "a/b", "runs/a/b", "projects/x/jobs/y", "UPPER", "../x"])
def test_a_name_of_another_kind_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        Connection(HERE).name(RunName, text)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("digits", "latest"),
        ("datasets/digits", "latest"),
        ("projects/team/datasets/digits", "latest"),
        ("digits/ab", "ab"),
    ],
)
async def test_a_dataset_alone_means_its_newest_version(text: str, version: str) -> None:
    from aios.client import AsyncClient

    async with AsyncClient(credentials=HERE) as client:
        name = client.datasets.version_name(text)
    assert name == DatasetVersionName("team", "digits", version)
    assert name.parent == str(DatasetName("team", "digits"))


async def test_pages_are_read_as_far_as_needed() -> None:
    asked: list[tuple[str, int]] = []

    async def call(request: Any) -> Any:
        asked.append((request.page_token, request.page_size))
        start = int(request.page_token or 0)
        items = list(range(start, min(start + request.page_size, 7)))
        return SimpleNamespace(items=items, next_page_token=str(items[-1] + 1) if items[-1] < 6 else "")

    def request() -> Any:
        return SimpleNamespace(page_token="", page_size=0)

    assert [each async for each in pages(call, request(), "items", 3)] == [0, 1, 2]
    assert asked == [("", 3)]
    assert [each async for each in pages(call, request(), "items")] == list(range(7))


class Part:
    async def add(self, one: int, two: int) -> int:
        await asyncio.sleep(0)
        return one + two

    async def fail(self) -> None:
        raise NotFound("gone")

    async def count(self, until: int) -> AsyncIterator[int]:
        for number in range(until):
            await asyncio.sleep(0)
            yield number

    async def thread(self) -> str:
        return threading.current_thread().name


def test_the_sync_client_runs_every_call_on_its_own_loop() -> None:
    from aios.client.sync import _Face  # type: ignore[attr-defined]  # not of its public types

    with Client(credentials=HERE) as client:
        part = _Face(Part(), client._run)  # type: ignore[attr-defined]
        assert part.add(1, two=2) == 3
        assert list(part.count(3)) == [0, 1, 2]
        assert next(iter(part.count(3))) == 0
        assert part.thread() == "aios-client"
        with pytest.raises(NotFound, match="gone"):
            part.fail()
        assert client.address == HERE.address
        assert client.runs.get.__name__
    client.close()


def test_files_are_found_in_order_with_relative_paths(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two").write_text("2")
    (tmp_path / "a").write_text("1")
    assert list(find(tmp_path)) == ["a", "b/two"]
    assert list(find(tmp_path / "a")) == ["a"]
    assert list(find({"x/y": tmp_path / "a"})) == ["x/y"]


def test_what_cannot_be_pushed_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no file or directory"):
        find(tmp_path / "missing")
    with pytest.raises(InvalidArgument, match="holds no file"):
        find(tmp_path)
    (tmp_path / "broken").symlink_to(tmp_path / "missing")
    with pytest.raises(InvalidArgument, match="not a regular file"):
        find(tmp_path)
    with pytest.raises(InvalidArgument, match=r"without `\.\.`"):
        find({"../out": tmp_path})
