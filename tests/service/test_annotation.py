"""Label projects as people use them: real gRPC, real S3."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import pytest_asyncio

from aios.client import AsyncClient
from aios.client.credentials import Credentials
from aios.data.v1 import annotation_pb2, data_service_pb2
from aios.data.v1 import annotation_service_pb2 as pb
from aios.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
)
from aios.labels import Box, Label
from aios.labels.records import Record
from tests.servers import S3Server, s3_server
from tests.service.data_service import Platform, running, settings_at, token_of

pytestmark = pytest.mark.asyncio(loop_scope="module")
Open = Callable[..., AsyncClient]
GOOD, BAD = Label(choices=("good",)), Label(choices=("bad",))


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def platform(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Platform]:
    """One for all tests, each of which has a project of its own."""
    home = tmp_path_factory.mktemp("home")
    async with running(s3.settings(settings_at(home), bucket=f"t{os.urandom(6).hex()}")) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def people(platform: Platform) -> AsyncIterator[Open]:
    """Clients by name and role."""
    mine = f"p{os.urandom(6).hex()}"
    async with AsyncExitStack() as stack:

        def make(name: str, role: str = "annotator", project: str = mine) -> AsyncClient:
            token = token_of(role, project, sub=name)
            client = AsyncClient(credentials=Credentials(f"http://{platform.address}", project, token))
            stack.push_async_callback(client.close)
            return client

        yield make


@pytest_asyncio.fixture(loop_scope="module")
async def boss(people: Open, tmp_path: Path) -> AsyncClient:
    """An editor with a table of texts."""
    client = people("boss", "editor")
    (tmp_path / "texts.csv").write_text("text,label\n" + "".join(f"text {n},\n" for n in range(6)))
    await client.datasets.push("texts", tmp_path / "texts.csv")
    return client


async def project(boss: AsyncClient, name: str = "mood", **rules: Any) -> annotation_pb2.LabelProject:
    made = await boss.labels.create(name, "texts", "classification", ["good", "bad"], **rules)
    await boss.labels.add(name)
    return made


def home_of(client: AsyncClient) -> str:
    """Its project's name."""
    return f"projects/{client.credentials.project}"


async def say(client: AsyncClient, label: Label, count: int = 1, name: str = "mood") -> list[str]:
    """Take tasks and give them all one label."""
    taken = await client.labels.lease(name, count)
    for lease in taken:
        await client.labels.submit(lease.task, lease.fence, label)
    return [lease.task for lease in taken]


async def states(boss: AsyncClient, name: str = "mood") -> dict[str, int]:
    return {state: count for state, count in (await boss.labels.get(name)).counts.items() if count}


async def test_items_are_labelled_reviewed_and_become_a_version_with_its_lineage(
    boss: AsyncClient, people: Open, tmp_path: Path
) -> None:
    made = await project(boss, overlap=2)
    ann, bob, eve = people("ann"), people("bob"), people("eve", "reviewer")

    await say(ann, GOOD, 6)
    await say(bob, GOOD, 4)
    await say(bob, BAD, 2)
    assert await states(boss) == {"labelled": 4, "disputed": 2}
    async for task in eve.labels.tasks("mood"):
        disputed = task.state == annotation_pb2.LabelTask.STATE_DISPUTED
        await eve.labels.review(task.name, "accept", BAD if disputed else None, task.etag)
    version = await boss.labels.export_version("mood", "labelled")

    assert await states(boss) == {"accepted": 6}
    assert (await boss.datasets.version(version.name)).origin.label_project == made.name
    await boss.datasets.pull("labelled", tmp_path / "out")
    table = pyarrow.parquet.read_table(tmp_path / "out" / "texts.parquet")
    assert table.column_names == ["text", "label"]
    assert table["label"].to_pylist() == ["good"] * 4 + ["bad"] * 2
    edges = {(edge.source, edge.target, edge.relation) for edge in await boss.lineage.get(version.name)}
    assert edges == {
        (made.dataset_version, version.name, "input"),
        (made.dataset_version, made.name, "input"),
        (made.name, version.name, "produced"),
    }


async def test_the_lineage_of_labels_is_made_again_from_the_bucket(
    boss: AsyncClient, people: Open, platform: Platform
) -> None:
    await project(boss, accept_agreed=True)
    await say(people("ann"), GOOD, 6)
    version = await boss.labels.export_version("mood", "labelled")
    before = await boss.lineage.get(version.name)

    await platform.caller("admin", platform=True).api.Reindex(data_service_pb2.ReindexRequest())

    assert await boss.lineage.get(version.name) == before
    assert await states(boss) == {"accepted": 6}


async def test_an_annotator_labels_and_sees_nothing_else(boss: AsyncClient, people: Open) -> None:
    await project(boss)
    ann = people("ann")
    (lease,) = await ann.labels.lease("mood")

    assert lease.item.data["text"] == "text 0"
    for refused in (
        lambda: ann.datasets.get("texts"),
        lambda: ann.labels.report("mood"),
        lambda: anext(aiter(ann.labels.tasks("mood"))),
        lambda: ann.labels.review(lease.task, "accept"),
        lambda: ann.labels.delete("mood"),
    ):
        with pytest.raises(PermissionDenied):
            await refused()
    with pytest.raises(PermissionDenied):
        await people("vic", "viewer").labels.lease("mood")
    with pytest.raises(NotFound):
        await people("mal", "annotator", "others").labels.lease(f"{home_of(boss)}/labelProjects/mood")


async def test_a_task_is_in_as_many_hands_as_it_needs_labels(boss: AsyncClient, people: Open) -> None:
    await project(boss, overlap=2)
    crowd = [people(f"p{n}") for n in range(6)]

    taken = await asyncio.gather(*(each.labels.lease("mood", 6) for each in crowd))

    hands = [lease.task for leases in taken for lease in leases]
    assert len(hands) == 12
    assert all(hands.count(task) == 2 for task in hands)


async def test_a_lease_that_ended_goes_to_the_next_and_the_late_label_is_fenced(
    boss: AsyncClient, people: Open, platform: Platform
) -> None:
    await project(boss, lease_seconds=60)
    ann, bob = people("ann"), people("bob")
    first = await ann.labels.lease("mood", 6)
    assert not await bob.labels.lease("mood")

    platform.clock.offset += timedelta(seconds=61)
    second = await bob.labels.lease("mood", 5)

    assert {lease.task for lease in second} < {lease.task for lease in first}
    fences = {lease.task: lease.fence for lease in first}
    assert all(lease.fence > fences[lease.task] for lease in second)
    for lease in first[:5]:
        with pytest.raises(Aborted) as lost:
            await ann.labels.submit(lease.task, lease.fence, GOOD)
        assert lost.value.reason == "LABEL_LEASE_LOST"
    # Nobody took the sixth: what was late is not lost.
    await ann.labels.submit(first[5].task, first[5].fence, GOOD)
    assert await states(boss) == {"open": 5, "labelled": 1}


async def test_a_lease_is_the_same_until_it_is_answered(boss: AsyncClient, people: Open) -> None:
    await project(boss)
    ann = people("ann")

    first, again = await ann.labels.lease("mood", 2), await ann.labels.lease("mood", 2)

    assert [(each.task, each.fence) for each in first] == [(each.task, each.fence) for each in again]
    request = pb.SubmitLabelRequest(
        name=first[0].task, fence=first[0].fence, request_id="7b1f2d4e-8c35-4f0a-9d8e-2a6c1b3e5f70"
    )
    request.label.choices.append("good")
    for _ in range(2):
        await ann.labels._stub.SubmitLabel(request)
    with pytest.raises(Aborted):
        await ann.labels.submit(first[0].task, first[0].fence, BAD)


async def test_a_task_that_too_many_skip_is_disputed(boss: AsyncClient, people: Open) -> None:
    await project(boss, skips_max=2)
    for name in ("ann", "bob"):
        client = people(name)
        (lease,) = await client.labels.lease("mood")
        await client.labels.submit(lease.task, lease.fence, None, "cannot read it")
        assert lease.task not in {each.task for each in await client.labels.lease("mood", 6)}

    assert (await states(boss))["disputed"] == 1
    with pytest.raises(FailedPrecondition):
        await boss.labels.review("mood/1", "accept")
    done = await boss.labels.review("mood/1", "correct", GOOD)
    assert (done.state, done.reviewer) == (annotation_pb2.LabelTask.STATE_REVIEWED, "boss")


async def test_a_reopened_task_is_labelled_anew(boss: AsyncClient, people: Open) -> None:
    await project(boss)
    ann = people("ann")
    (task,) = await say(ann, GOOD)

    reopened = await boss.labels.review(task, "reopen")
    assert (reopened.round, list(reopened.annotations)) == (2, [])
    assert await say(ann, BAD) == [task]

    with pytest.raises(Aborted):
        await boss.labels.review(task, "accept", etag=reopened.etag)
    assert (await boss.labels.review(task, "accept")).label.choices == ["bad"]


async def test_people_are_measured_by_gold_that_they_cannot_tell(
    boss: AsyncClient, people: Open, tmp_path: Path
) -> None:
    rows = "".join(f"text {n},{'good' if n < 2 else ''}\n" for n in range(8))
    (tmp_path / "more.csv").write_text("text,known\n" + rows)
    await boss.datasets.push("texts", tmp_path / "more.csv")
    await boss.labels.create("mood", "texts", "classification", ["good", "bad"], gold_every=2)
    assert await boss.labels.add("mood", "more.csv", gold="known") == 8
    ann = people("ann")

    taken = await ann.labels.lease("mood", 4)
    assert all("known" not in lease.item.data for lease in taken)
    for lease in taken:
        await ann.labels.submit(lease.task, lease.fence, GOOD if lease.item.row == 0 else BAD)

    (report,) = (await boss.labels.report("mood")).annotators
    assert (report.labelled, report.gold_count, report.gold_accuracy) == (4, 2, 0.5)
    assert await states(boss) == {"open": 4, "labelled": 2}


async def test_a_report_says_how_people_agree(boss: AsyncClient, people: Open) -> None:
    await project(boss, overlap=2)
    await say(people("ann"), GOOD, 3)
    await say(people("ann"), BAD, 3)
    await say(people("bob"), GOOD, 3)
    await say(people("bob"), BAD, 2)
    await say(people("bob"), GOOD, 1)

    report = await boss.labels.report("mood")

    assert report.agreement == pytest.approx(5 / 6)
    assert report.cohen_kappa == pytest.approx(2 / 3)
    assert report.fleiss_kappa == pytest.approx(0.6571428571)
    assert report.krippendorff_alpha == pytest.approx(0.6857142857)
    done = await boss.labels.resolve("mood", "dawid-skene", 0.9)
    assert done.resolved == 6
    assert (await states(boss))["accepted"] == done.accepted >= 5


async def test_proposals_are_shown_and_what_becomes_of_them_is_counted(
    boss: AsyncClient, people: Open
) -> None:
    await project(boss)
    updates = []
    for number in (1, 2, 3):
        update = pb.LabelTaskUpdate(
            name=f"{home_of(boss)}/labelProjects/mood/tasks/{number}", priority=number
        )
        update.prelabel.label.choices.append("good")
        update.prelabel.scores.update({"good": 0.75, "bad": 0.25})
        update.prelabel.source = "deployments/mood"
        updates.append(update)
    await boss.labels.prepare("mood", updates)
    ann = people("ann")

    taken = await ann.labels.lease("mood", 3)
    assert [lease.task.rpartition("/")[2] for lease in taken] == ["3", "2", "1"]
    assert [list(lease.prelabel.label.choices) for lease in taken] == [["good"]] * 3
    for lease, label in zip(taken, (GOOD, GOOD, BAD), strict=True):
        await ann.labels.submit(lease.task, lease.fence, label)

    report = await boss.labels.report("mood")
    assert (report.prelabels_accepted, report.prelabels_edited) == (2, 1)


async def test_what_a_model_is_least_sure_of_comes_first(boss: AsyncClient, people: Open) -> None:
    await project(boss)
    sure = {0: 0.9, 1: 0.55, 2: 0.7}

    def model(record: Record) -> dict[str, float]:
        share = sure.get(record.row or 0, 1.0)
        return {"good": share, "bad": 1 - share}

    assert await boss.labels.propose("mood", model, "a model") == 6
    assert await boss.labels.rank("mood", "margin") == 3

    taken = await people("ann").labels.lease("mood", 4)
    assert [lease.item.row for lease in taken] == [1, 2, 0, 3]
    with pytest.raises(FailedPrecondition, match="no column of numbers"):
        await boss.labels.rank("mood", "k-center")
    with pytest.raises(InvalidArgument, match="classes that the project lacks"):
        await boss.labels.propose("mood", lambda record: {"meh": 1.0}, "another model")


async def test_labels_of_other_tools_come_in_and_go_out(
    boss: AsyncClient, people: Open, tmp_path: Path
) -> None:
    await project(boss, overlap=2)
    theirs = tmp_path / "theirs.csv"
    theirs.write_text("path,row,annotator,label\n" + "".join(f"texts.csv,{n},bob,bad\n" for n in range(6)))

    assert await boss.labels.import_labels("mood", "csv", theirs) == (0, 6)
    assert await boss.labels.import_labels("mood", "csv", theirs) == (0, 0)
    await say(people("ann"), BAD, 6)
    await boss.labels.resolve("mood", confidence_min=1)

    for form in ("csv", "jsonl", "label-studio"):
        await boss.labels.export("mood", form, tmp_path / form)
        await boss.labels.create(f"again-{form}", "texts", "classification", ["good", "bad"], overlap=2)
        (file,) = (tmp_path / form).iterdir()
        assert (await boss.labels.import_labels(f"again-{form}", form, file))[1] == 12
        assert await states(boss, f"again-{form}") == {"labelled": 6}
    version = await boss.labels.export_version("mood", "as-files", "label-studio")
    assert [file.path for file in (await boss.datasets.version(version.name)).files] == ["tasks.json"]


async def test_changes_are_watched_without_a_gap(boss: AsyncClient, people: Open) -> None:
    await project(boss)
    request = pb.ListLabelTasksRequest(parent=f"{home_of(boss)}/labelProjects/mood")
    revision = (await boss.labels._stub.ListLabelTasks(request)).revision
    await say(people("ann"), GOOD)
    await boss.labels.review("mood/1", "accept")

    seen = []
    async for event in boss.labels.watch(revision):
        seen.append((event.type, event.task.name, event.task.item.HasField("data")))
        if len(seen) == 2:
            break
    name = f"{home_of(boss)}/labelProjects/mood/tasks/1"
    assert seen == [("labelled", name, False), ("accepted", name, False)]


async def test_an_image_is_shown_by_a_url_and_boxes_lie_in_it(
    boss: AsyncClient, people: Open, platform: Platform, tmp_path: Path
) -> None:
    from PIL import Image

    (tmp_path / "pictures").mkdir()
    for number in range(3):
        Image.new("RGB", (40, 30), (number, 0, 0)).save(tmp_path / "pictures" / f"{number}.png")
    await boss.datasets.push("pictures", tmp_path / "pictures")
    await boss.labels.create("find", "pictures", "boxes", ["cat"])
    assert await boss.labels.add("find") == 3
    ann = people("ann")
    (lease,) = await ann.labels.lease("find")

    assert (lease.item.width, lease.item.height) == (40, 30)
    url = lease.download.url or lease.download.parts[0].url
    assert (await platform.http.get(url)).status_code == 200
    with pytest.raises(InvalidArgument, match="within the image"):
        await ann.labels.submit(lease.task, lease.fence, Label(boxes=(Box("cat", 20, 20, 21, 5),)))
    await ann.labels.submit(lease.task, lease.fence, Label(boxes=(Box("cat", 1 / 3, 2, 10, 10),)))
    (task,) = [task async for task in boss.labels.tasks("find", ["labelled"])]
    assert task.label.boxes[0].x == 0.333333


async def test_files_go_into_a_folder_for_each_class(boss: AsyncClient, people: Open, tmp_path: Path) -> None:
    (tmp_path / "notes" / "in").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "notes" / "in" / f"{number}.txt").write_text(f"note {number}")
    await boss.datasets.push("texts", tmp_path / "notes")
    await project(boss, accept_agreed=True)
    ann = people("ann")
    for lease in await ann.labels.lease("mood", 3):
        assert lease.item.data["text"] == f"note {lease.item.path[3]}"
        await ann.labels.submit(lease.task, lease.fence, BAD if lease.item.path == "in/1.txt" else GOOD)

    await boss.labels.export_version("mood", "sorted", "folders")

    await boss.datasets.pull("sorted", tmp_path / "out")
    found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.txt")}
    assert found == {"good/in/0.txt", "bad/in/1.txt", "good/in/2.txt"}
    with pytest.raises(InvalidArgument, match="rows of tables"):
        await boss.labels.export_version("mood", "sorted", "table")


async def test_what_is_labelled_stays_until_its_label_project_goes(boss: AsyncClient) -> None:
    made = await project(boss)
    with pytest.raises(AlreadyExists):
        await project(boss)
    with pytest.raises(FailedPrecondition) as kept:
        await boss.datasets.delete("texts")
    assert kept.value.reason == "VERSION_LABELLED"

    await boss.labels.delete("mood")
    with pytest.raises(NotFound):
        await boss.labels.get(made.name)
    await boss.datasets.delete("texts")


async def test_a_label_project_that_cannot_be_is_refused(boss: AsyncClient) -> None:
    wrong: list[dict[str, Any]] = [
        {"labels": []},
        {"labels": ["a", "a"]},
        {"labels": [" a"]},
        {"overlap": 11},
        {"lease_seconds": 1},
        {"agreement_min": 1.5},
        {"dataset": "nothing"},
    ]
    for each in wrong:
        asked = {"labels": ["good"], "dataset": "texts"} | each
        dataset, labels = asked.pop("dataset"), asked.pop("labels")
        with pytest.raises((InvalidArgument, NotFound)):
            await boss.labels.create("mood", dataset, "classification", labels, **asked)


async def test_large_items_come_in_several_pages_and_too_large_ones_are_refused(
    boss: AsyncClient, tmp_path: Path
) -> None:
    (tmp_path / "long.csv").write_text("text\n" + "".join(f"{n}{'x' * 60_000}\n" for n in range(60)))
    await boss.datasets.push("texts", tmp_path / "long.csv")
    await project(boss)

    rows = [task.item.row async for task in boss.labels.tasks("mood")]

    assert rows == list(range(60))
    request = pb.AddLabelTasksRequest(parent=f"{home_of(boss)}/labelProjects/mood")
    request.tasks.add().item.path = "long.csv"
    request.tasks[0].item.data["text"] = "x" * 70_000
    with pytest.raises(InvalidArgument, match="at most 65536 bytes"):
        await boss.labels._stub.AddLabelTasks(request)


async def test_items_that_are_not_in_the_version_are_refused(boss: AsyncClient) -> None:
    await project(boss)
    request = pb.AddLabelTasksRequest(parent=f"{home_of(boss)}/labelProjects/mood")
    request.tasks.add().item.path = "nothing.csv"
    with pytest.raises(InvalidArgument, match=r"nothing\.csv"):
        await boss.labels._stub.AddLabelTasks(request)
