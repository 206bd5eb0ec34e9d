"""The bucket is the truth: logs that never fork, changes that are whole or not there, and an index made again."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from aios.blobs import Blobs
from aios.config import Settings
from aios.data.v1 import data_service_pb2 as pb
from aios.data.v1 import dataset_pb2
from aios.errors import (
    Aborted,
    AiosError,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from aios.trees.tree import Leaf, Part, Tree
from services.data import ingest, layout, reindex, tables
from services.data.logs import Entry
from tests.servers import S3Server, s3_server
from tests.service.data_service import PROJECT, Caller, Platform, digest, file, running, settings_at

NAME = f"{PROJECT}/datasets/d"


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def settings(s3: S3Server, tmp_path: Path) -> Settings:
    return s3.settings(settings_at(tmp_path), bucket=f"t{os.urandom(6).hex()}")


@pytest.fixture
async def platform(settings: Settings) -> AsyncIterator[Platform]:
    async with running(settings) as started:
        yield started


async def entries(platform: Platform, log: str) -> list[Entry]:
    """A log as the bucket has it."""
    listed = await platform.blobs.entries(f"{layout.logs('demo')}{log}/")
    return [Entry.decode(await platform.blobs.get(each.key)) for each in listed]


async def index(platform: Platform) -> dict[str, list[Any]]:
    """Everything that can be made again, in an order of its own."""
    names = [
        "entries",
        "datasets",
        "dataset_versions",
        "refs",
        "manifests",
        "pins",
        "models",
        "model_versions",
    ]
    names += ["aliases", "checkpoints", "lineage"]

    def read(tx: Any) -> dict[str, list[Any]]:
        found = {name: tx.execute(select(tables.metadata.tables[name])).all() for name in names}
        pinned = select(tables.blobs.c.project, tables.blobs.c.sha256, tables.blobs.c.size_bytes)
        found["blobs"] = tx.execute(pinned.where(tables.blobs.c.unpinned_time.is_(None))).all()
        return {
            name: sorted(json.dumps(list(row), sort_keys=True, default=str) for row in rows)
            for name, rows in found.items()
        }

    return await platform.db.read(read)


async def everything(platform: Platform) -> None:
    """A dataset, a model, a run and edges, with something of each kind deleted again."""
    alice, service = platform.caller(), platform.caller("service")
    await alice.dataset("d", dataset=dataset_pb2.Dataset(description="by hand"))
    versions = [await alice.commit(NAME, [await alice.store("a", bytes([each]))], "why") for each in range(3)]
    await alice.commit(NAME, [file("a", b"\0")])  # the first again
    for ref, version, tag in (
        ("v1", versions[1], True),
        ("dev", versions[2], False),
        ("old", versions[0], True),
    ):
        short = version.name.rpartition("/")[2]
        await alice.api.SetDatasetRef(pb.SetDatasetRefRequest(dataset=NAME, ref=ref, version=short, tag=tag))
    await alice.api.DeleteDatasetRef(pb.DeleteDatasetRefRequest(dataset=NAME, ref="dev"))
    await alice.api.DeleteDatasetVersion(pb.DeleteDatasetVersionRequest(name=versions[2].name))
    await alice.dataset("gone")
    await alice.api.DeleteDataset(pb.DeleteDatasetRequest(name=f"{PROJECT}/datasets/gone"))
    for content in (b"m1", b"m2", b"m3"):
        await alice.register(
            "m", [await alice.store("model", content)], metrics={"accuracy": 0.5}, card="# m"
        )
    model = f"{PROJECT}/models/m"
    for version in ("3", "1"):
        await alice.api.SetModelAlias(pb.SetModelAliasRequest(model=model, alias="champion", version=version))
    await alice.api.DeleteModelVersion(pb.DeleteModelVersionRequest(name=f"{model}/versions/3"))
    for step in (1, 2, 3):
        worker = platform.worker("r", epoch=step)
        await worker.checkpoint("r", step, step, [await worker.store("s", b"state%d" % step)])
    await alice.api.PruneCheckpoints(pb.PruneCheckpointsRequest(parent=f"{PROJECT}/runs/r", keep_last=2))
    edge = pb.LineageEdge(source=versions[0].name, target=f"{PROJECT}/runs/r", relation="input")
    await service.api.RecordLineage(pb.RecordLineageRequest(parent=PROJECT, edges=[edge]))


async def test_a_lost_index_is_made_again_as_it_was(settings: Settings, tmp_path: Path) -> None:
    async with running(settings) as platform:
        await everything(platform)
        before = await index(platform)
    assert len(before["dataset_versions"]) == len(before["model_versions"]) == len(before["checkpoints"]) == 2
    for path in (tmp_path / "records").iterdir():
        path.unlink()

    async with running(settings) as again:
        assert await index(again) == before
        alice = again.caller()
        read = await alice.read(f"{NAME}/versions/@v1")
        number = (await alice.register("m", [await alice.store("model", b"m4")])).name

    assert read == {"a": b"\1"}
    assert number.endswith("/4")  # 3 was deleted: its number is not used again


async def test_an_operator_has_the_index_made_again_while_it_serves(platform: Platform) -> None:
    await everything(platform)
    before = await index(platform)
    await platform.db.write(lambda tx: tx.execute(tables.lineage.delete()))

    with pytest.raises(AiosError, match=r"data\.reindex"):
        await platform.caller("admin").api.Reindex(pb.ReindexRequest())
    made = await platform.caller("admin", platform=True).api.Reindex(pb.ReindexRequest())

    assert await index(platform) == before
    assert (made.projects, made.logs) == (1, 5)


async def test_two_services_on_one_bucket_write_one_log(settings: Settings, tmp_path: Path) -> None:
    async with running(settings) as one:
        alice = one.caller()
        await alice.dataset("d")
        await alice.commit(NAME, [await alice.store("start", b"0")])
        elsewhere = replace(settings, home=tmp_path / "elsewhere")
        elsewhere.home.mkdir()
        async with running(elsewhere) as two:
            bob = two.caller()

            async def commits(caller: Caller, who: str) -> None:
                for number in range(5):
                    content = f"{who}{number}".encode()
                    await caller.commit(NAME, [await caller.store(who, content)], message=f"{who}{number}")

            await asyncio.gather(commits(alice, "a"), commits(bob, "b"))
            log = await entries(one, "datasets/d")
            await bob.commit(NAME, [file("b", b"b0")])  # whoever writes next has read the other's entries

            assert [entry.sequence for entry in log] == list(range(1, 13))
            said = [entry.body["message"] for entry in log[2:]]
            assert sorted(said) == [f"{who}{number}" for who in "ab" for number in range(5)]
            parents = [await two.parts.contents.manifest("demo", entry.manifest) for entry in log[1:]]
            assert [each.parents for each in parents] == [(), *((entry.manifest,) for entry in log[1:-1])]
            assert len((await index(two))["dataset_versions"]) == 11


class Failing(Blobs):
    """An object store that fails at one write, before or after it has done it."""

    fail_at = -1
    after = False
    writes = 0

    async def put_if_absent(self, key: str, data: bytes) -> bool:
        Failing.writes += 1
        mine = Failing.writes == Failing.fail_at
        if mine and not Failing.after:
            raise Aborted("the store is away")
        stored = await super().put_if_absent(key, data)
        if mine:
            raise Aborted("the answer was lost")
        return stored


@pytest.mark.parametrize("after", [False, True])
async def test_a_commit_that_fails_at_any_step_is_whole_or_not_there(settings: Settings, after: bool) -> None:
    Failing.fail_at, Failing.after = -1, after
    async with running(settings, Failing) as platform:
        alice = platform.caller()
        await alice.dataset("d")
        head = (await alice.commit(NAME, [await alice.store("a", b"first")])).name
        for step in (1, 2):  # the manifest, the entry
            content = f"{after}{step}".encode()
            files = [await alice.store("a", content)]
            Failing.writes, Failing.fail_at = 0, step
            with pytest.raises(Aborted):
                await alice.commit(NAME, files)
            Failing.fail_at = -1

            latest = pb.GetDatasetVersionRequest(name=f"{NAME}/versions/latest")
            assert (await alice.api.GetDatasetVersion(latest)).name == head
            await platform.parts.ledger.settle_once()
            settled = (await alice.api.GetDatasetVersion(latest)).name
            assert (settled != head) == (after and step == 2)
            again = await alice.commit(NAME, files)

            assert await alice.read(again.name) == {"a": content}
            assert settled in (head, again.name)
            head = again.name
        log = await entries(platform, "datasets/d")
        assert [entry.sequence for entry in log] == list(range(1, len(log) + 1))
        assert [entry.change for entry in log] == ["created", *["committed"] * 3]


async def test_two_who_changed_different_files_both_succeed(platform: Platform) -> None:
    alice = platform.caller()
    await alice.dataset("d")
    base = await alice.commit(NAME, await alice.store_all({"a": b"1", "b": b"1", "c": b"1"}))
    short = base.name.rpartition("/")[2]

    await alice.commit(NAME, await alice.store_all({"a": b"2", "b": b"1", "c": b"1"}), base_version=short)
    both = await alice.commit(
        NAME, [file("a", b"1"), *await alice.store_all({"b": b"2", "new": b"1"})], base_version=short
    )
    with pytest.raises(Aborted) as refused:
        await alice.commit(NAME, await alice.store_all({"a": b"3", "b": b"1", "c": b"1"}), base_version=short)

    assert await alice.read(both.name) == {"a": b"2", "b": b"2", "new": b"1"}
    assert refused.value.reason == "COMMIT_CONFLICT"
    assert refused.value.metadata["files"] == "'a'"


async def test_branches_move_and_tags_stay(platform: Platform) -> None:
    alice = platform.caller()
    await alice.dataset("d")
    first = (await alice.commit(NAME, [await alice.store("a", b"1")])).name
    short = first.rpartition("/")[2]
    await alice.api.SetDatasetRef(pb.SetDatasetRefRequest(dataset=NAME, ref="v1", version="latest", tag=True))

    dev = (await alice.commit(NAME, [await alice.store("a", b"2")], branch="dev")).name

    found = await alice.api.GetDataset(pb.GetDatasetRequest(name=NAME))
    assert dict(found.branches) == {"main": short, "dev": dev.rpartition("/")[2]}
    assert (dict(found.tags), found.latest_version) == ({"v1": short}, first)
    for named, version in (("latest", first), ("@main", first), ("@v1", first), ("@dev", dev)):
        request = pb.GetDatasetVersionRequest(name=f"{NAME}/versions/{named}")
        assert (await alice.api.GetDatasetVersion(request)).name == version
    moved = dev.rpartition("/")[2]
    for ref, tag in (("v1", True), ("dev", True), ("v1", False)):
        with pytest.raises(AlreadyExists):
            await alice.api.SetDatasetRef(
                pb.SetDatasetRefRequest(dataset=NAME, ref=ref, version=moved, tag=tag)
            )
    with pytest.raises(AlreadyExists):
        await alice.commit(NAME, [file("a", b"2")], branch="v1")
    with pytest.raises(NotFound):
        await alice.api.DeleteDatasetRef(pb.DeleteDatasetRefRequest(dataset=NAME, ref="none"))
    log = await alice.api.ListDatasetLog(pb.ListDatasetLogRequest(parent=NAME))
    assert [(each.sequence, each.type, each.ref) for each in log.entries] == [
        (4, "committed", "dev"),
        (3, "ref_set", "v1"),
        (2, "committed", "main"),
        (1, "created", ""),
    ]


async def test_a_deletion_says_what_it_frees_and_keeps_what_is_shared(platform: Platform) -> None:
    alice = platform.caller()
    await alice.dataset("d")
    first = (await alice.commit(NAME, await alice.store_all({"a": b"old" * 10, "b": b"both"}))).name
    await alice.commit(NAME, await alice.store_all({"a": b"new" * 10, "b": b"both"}))
    request = pb.DeleteDatasetVersionRequest(name=first, validate_only=True)

    dry = await alice.api.DeleteDatasetVersion(request)
    assert (dry.freed_bytes, dry.freed_blobs, dry.shared_bytes) == (30, 1, 4)
    assert await alice.read(first) == {"a": b"old" * 10, "b": b"both"}
    request.validate_only = False
    done = await alice.api.DeleteDatasetVersion(request)

    assert done.freed_bytes == 30
    with pytest.raises(NotFound):
        await alice.read(first)
    with pytest.raises(FailedPrecondition) as refused:
        await alice.api.DeleteDatasetVersion(pb.DeleteDatasetVersionRequest(name=f"{NAME}/versions/latest"))
    assert refused.value.reason == "VERSION_NAMED"
    old = layout.blob("demo", digest(b"old" * 10))
    for hours, there in ((23, True), (25, False)):
        platform.clock.offset = timedelta(hours=hours)
        await platform.ingest.collect_once()
        assert (await platform.blobs.stat(old) is not None) == there
    assert await alice.read(f"{NAME}/versions/latest") == {"a": b"new" * 10, "b": b"both"}


async def test_all_that_is_due_is_collected_at_once_however_much_it_is(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "REAP_AT_ONCE", 2)
    alice = platform.caller()
    await alice.dataset("d")
    await alice.commit(NAME, await alice.store_all({f"{number}": b"%d" % number for number in range(5)}))
    await alice.api.DeleteDataset(pb.DeleteDatasetRequest(name=NAME))
    platform.clock.offset = timedelta(hours=25)
    await platform.ingest.collect_once()
    assert await platform.blobs.entries(layout.blobs("demo")) == []


async def test_a_deletion_counts_what_another_dataset_holds_as_shared(platform: Platform) -> None:
    alice = platform.caller()
    files = await alice.store_all({"a": b"both" * 10})
    for name in ("d", "copy"):
        await alice.dataset(name)
        await alice.commit(f"{alice.project}/datasets/{name}", files)
    request = pb.DeleteDatasetRequest(name=NAME, validate_only=True)
    dry = await alice.api.DeleteDataset(request)
    assert (dry.freed_bytes, dry.freed_blobs, dry.shared_bytes) == (0, 0, 40)
    assert not (await alice.begin(b"old" * 10)).exists


async def test_content_that_is_wanted_again_within_its_grace_stays(platform: Platform) -> None:
    alice = platform.caller()
    await alice.dataset("d")
    await alice.store("a", b"orphan")
    platform.clock.offset = timedelta(hours=23)
    assert (await alice.begin(b"orphan")).exists

    platform.clock.offset = timedelta(hours=25)
    await platform.ingest.collect_once()

    assert await alice.read((await alice.commit(NAME, [file("a", b"orphan")])).name) == {"a": b"orphan"}


async def test_a_model_is_deleted_whole_unless_it_is_served_and_its_numbers_go_on(platform: Platform) -> None:
    alice, model = platform.caller(), f"{PROJECT}/models/m"
    first = await alice.register("m", [await alice.store("model", b"1")])
    await alice.register("m", [await alice.store("model", b"2")])
    await alice.api.SetModelAlias(pb.SetModelAliasRequest(model=model, alias="champion", version="2"))

    platform.deployed[first.name] = [f"{PROJECT}/deployments/web"]
    with pytest.raises(FailedPrecondition, match="deployments/web"):
        await alice.api.DeleteModel(pb.DeleteModelRequest(name=model))
    platform.deployed.clear()
    told = await alice.api.DeleteModel(pb.DeleteModelRequest(name=model, validate_only=True))
    assert (told.freed_blobs, told.freed_bytes) == (2, 2)
    gone = await alice.api.DeleteModel(pb.DeleteModelRequest(name=model))
    assert gone.freed_blobs == 2
    with pytest.raises(NotFound):
        await alice.api.GetModel(pb.GetModelRequest(name=model))
    with pytest.raises(NotFound):
        await alice.api.DeleteModel(pb.DeleteModelRequest(name=model))

    again = await alice.register("m", [await alice.store("model", b"1")])
    assert again.name == f"{model}/versions/3"
    await platform.caller("admin", platform=True).api.Reindex(pb.ReindexRequest())
    listed = await alice.api.ListModelVersions(pb.ListModelVersionsRequest(parent=model))
    assert [each.name for each in listed.model_versions] == [again.name]
    assert dict((await alice.api.GetModel(pb.GetModelRequest(name=model))).aliases) == {}
    assert (await alice.register("m", [await alice.store("model", b"4")])).name == f"{model}/versions/4"


async def test_a_model_version_that_is_served_or_named_is_not_deleted(platform: Platform) -> None:
    alice, model = platform.caller(), f"{PROJECT}/models/m"
    made = await alice.register("m", [await alice.store("model", b"1")])
    await alice.api.SetModelAlias(pb.SetModelAliasRequest(model=model, alias="champion", version="1"))
    request = pb.DeleteModelVersionRequest(name=f"{model}/versions/latest")

    platform.deployed[made.name] = [f"{PROJECT}/deployments/web"]
    with pytest.raises(FailedPrecondition, match="deployments/web"):
        await alice.api.DeleteModelVersion(request)
    platform.deployed.clear()
    with pytest.raises(FailedPrecondition, match="@champion"):
        await alice.api.DeleteModelVersion(request)
    await alice.api.DeleteModelAlias(pb.DeleteModelAliasRequest(model=model, alias="champion"))
    await alice.api.DeleteModelVersion(request)

    log = await alice.api.ListModelLog(pb.ListModelLogRequest(parent=model))
    assert [(each.type, each.ref) for each in log.entries] == [
        ("version_deleted", ""),
        ("alias_deleted", "champion"),
        ("alias_set", "champion"),
        ("registered", ""),
    ]


async def test_checkpoints_beyond_the_rule_go_and_the_best_stay(platform: Platform) -> None:
    alice, worker, parent = platform.caller(), platform.worker("r", epoch=1), f"{PROJECT}/runs/r"
    for step, loss in ((1, 0.5), (2, 0.1), (3, 0.4), (4, 0.3)):
        request = pb.CreateCheckpointRequest(parent=parent)
        request.checkpoint.step, request.checkpoint.epoch = step, 1
        request.checkpoint.files.append(await worker.store("s", f"state{step}".encode()))
        request.checkpoint.metrics["loss"] = loss
        await worker.api.CreateCheckpoint(request)

    rule = pb.PruneCheckpointsRequest(parent=parent, keep_last=1, keep_best=1, metric="loss", minimize=True)
    told = await alice.api.PruneCheckpoints(rule)

    assert [each.rpartition("-")[2][-1] for each in told.removed] == ["3", "1"]
    assert told.deletion.freed_bytes == 12
    listed = await alice.api.ListCheckpoints(pb.ListCheckpointsRequest(parent=parent))
    assert [each.step for each in listed.checkpoints] == [4, 2]


async def test_a_large_upload_goes_on_where_it_was_cut_off(platform: Platform) -> None:
    alice, data = platform.caller(), os.urandom(70 << 20)
    upload = await alice.begin(data)
    assert (upload.part_size_bytes, list(upload.stored_parts), upload.url) == (16 << 20, [], "")
    await alice.put_parts(upload, data, [1, 3, 4])
    with pytest.raises(FailedPrecondition, match="2 of its 5 parts"):
        await alice.complete(upload)

    again = await alice.begin(data)
    assert list(again.stored_parts) == [1, 3, 4]
    await alice.put_parts(again, data)
    await alice.complete(again)

    await alice.dataset("d")
    assert await alice.read((await alice.commit(NAME, [file("a", data)])).name) == {"a": data}


async def test_parts_that_are_not_the_content_are_thrown_away(platform: Platform) -> None:
    alice, data = platform.caller(), os.urandom(65 << 20)
    upload = await alice.begin(data)
    await alice.put_parts(upload, bytes(len(data)))  # each with the right checksum of the wrong bytes
    with pytest.raises(FailedPrecondition) as refused:
        await alice.complete(upload)

    assert refused.value.reason == "UPLOAD_CORRUPT"
    again = await alice.begin(data)
    assert not again.stored_parts
    await alice.put_parts(again, data)
    assert (await alice.complete(again)).exists


async def test_an_unfinished_upload_in_parts_is_forgotten_after_two_days(platform: Platform) -> None:
    alice, data = platform.caller(), os.urandom(65 << 20)
    upload = await alice.begin(data)
    await alice.put_parts(upload, data, [1])
    for hours, stored in ((47, [1]), (49, [])):
        platform.clock.offset = timedelta(hours=hours)
        await platform.ingest.reap_once()
        row = await platform.db.read(lambda tx: tx.execute(select(tables.uploads)).one_or_none())
        found = await platform.blobs.parts(layout.blob("demo", digest(data)), row.multipart) if row else []
        assert [part.number for part in found] == stored


async def indexed(alice: Caller, tree: Tree, **more: Any) -> Any:
    data = tree.encode()
    await alice.store("index", data)
    request = pb.CreateDatasetVersionRequest(parent=NAME, **more)
    request.dataset_version.index_sha256 = digest(data)
    return await alice.api.CreateDatasetVersion(request)


async def test_many_files_are_an_index_and_share_packs(platform: Platform) -> None:
    alice = platform.caller()
    await alice.dataset("d")
    contents = {f"f/{number:03}": f"content {number}".encode() for number in range(300)}
    pack, offset, leaves = b"".join(contents.values()), 0, []
    for path, data in contents.items():
        leaves.append(Leaf(path, digest(data), len(data), (Part(digest(pack), offset, len(data), ""),)))
        offset += len(data)
    await alice.store("pack", pack)
    made = await indexed(alice, Tree.of(leaves))
    changed = Tree.of([*leaves[1:], Leaf("f/new", digest(pack), len(pack))])
    second = await indexed(alice, changed)

    assert (made.file_count, made.size_bytes) == (300, len(pack))
    assert await alice.read(made.name) == contents
    listed = await alice.api.ListDownloads(pb.ListDownloadsRequest(parent=made.name, paths=["f/007"]))
    assert [each.file.path for each in listed.downloads] == ["f/007"]
    diff = await alice.api.DiffDatasetVersions(pb.DiffDatasetVersionsRequest(name=second.name))
    assert (diff.added, diff.removed, diff.modified) == (1, 1, 0)
    assert [each.path for each in diff.changes] == ["f/000", "f/new"]
    assert (await indexed(alice, changed)).name == second.name


@pytest.mark.parametrize(
    ("leaves", "what"),
    [
        ([Leaf("../up", digest(b"1"), 1)], "no `..`"),
        ([Leaf("a", digest(b"1"), 1), Leaf("a/b", digest(b"1"), 1)], "cannot be a folder"),
        ([Leaf("a", digest(b"1"), 1), Leaf("a", digest(b"2"), 1)], "stands twice"),
        ([Leaf("a", digest(b"1"), 2, (Part(digest(b"1"), 0, 1, ""),))], "as long as its parts"),
        ([Leaf("a", digest(b"1"), 1, (Part(digest(b"1"), -1, 1, ""),))], "before its blob"),
        ([], "at least one file"),
    ],
)
async def test_an_index_that_cannot_be_is_refused(platform: Platform, leaves: list[Leaf], what: str) -> None:
    alice = platform.caller()
    await alice.dataset("d")
    await alice.store_all({"1": b"1", "2": b"2"})
    with pytest.raises(InvalidArgument, match=what):
        await indexed(alice, Tree.of(leaves))


async def test_an_index_names_only_what_is_there(platform: Platform) -> None:
    alice = platform.caller()
    await alice.dataset("d")
    await alice.store("1", b"1")
    for leaf in (
        Leaf("missing", digest(b"no"), 2),
        Leaf("beyond", digest(b"no"), 2, (Part(digest(b"1"), 0, 2, ""),)),
        Leaf("larger", digest(b"1"), 2),
    ):
        with pytest.raises(FailedPrecondition, match=leaf.path):
            await indexed(alice, Tree.of([leaf]))
    request = pb.CreateDatasetVersionRequest(parent=NAME)
    request.dataset_version.index_sha256 = (await alice.store("no", b"no table")).sha256
    with pytest.raises(InvalidArgument, match="table of files"):
        await alice.api.CreateDatasetVersion(request)


async def test_where_a_version_came_from_is_part_of_it_and_of_the_graph(platform: Platform) -> None:
    alice = platform.caller()
    await alice.dataset("d")
    raw = (await alice.commit(NAME, [await alice.store("a", b"raw")])).name
    origin = dataset_pb2.Origin(
        run=f"{PROJECT}/runs/clean", inputs=[raw], code_sha256="c" * 64, licence="MIT", privacy=["pii"]
    )
    origin.parameters["drop"] = True
    request = pb.CreateDatasetVersionRequest(parent=NAME)
    request.dataset_version.files.append(await alice.store("a", b"clean"))
    request.dataset_version.origin.CopyFrom(origin)
    made = await alice.api.CreateDatasetVersion(request)

    found = await alice.api.GetDatasetVersion(pb.GetDatasetVersionRequest(name=made.name))
    graph = await alice.api.GetLineage(pb.GetLineageRequest(parent=PROJECT, resource=made.name))
    request.dataset_version.origin.inputs[0] = "projects/other/datasets/d/versions/1"

    assert found.origin == origin
    assert {(each.source, each.relation) for each in graph.edges} == {
        (raw, "input"),
        (origin.run, "produced"),
    }
    with pytest.raises(InvalidArgument, match="must lie in projects/demo"):
        await alice.api.CreateDatasetVersion(request)


async def test_what_was_stored_before_there_were_logs_gets_one(settings: Settings, tmp_path: Path) -> None:
    async with running(settings) as platform:
        await everything(platform)
        before = await index(platform)

        def forget(tx: Any) -> None:
            tx.execute(tables.entries.delete())
            tx.execute(tables.manifests.update().values(meaning=""))

        await platform.db.write(forget)
        for entry in await platform.blobs.entries(layout.logs("demo")):
            await platform.blobs.delete(entry.key)

    async with running(settings) as again:
        adopted = await index(again)
        await reindex.rebuild(again.parts)
        rebuilt = await index(again)

    def kept(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        # Branches beside main and numbers of what was deleted are newer than the rows of that time.
        return {name: each for name, each in rows.items() if name not in ("entries", "refs", "models")}

    assert kept(adopted) == kept(before)
    assert kept(rebuilt) == kept(before)
    assert len(rebuilt["entries"]) == len(adopted["entries"])
