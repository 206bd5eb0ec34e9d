"""Datasets, models, checkpoints and their lineage: real gRPC, real S3."""

import os
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from aios.data.v1 import data_service_pb2 as pb
from aios.data.v1 import dataset_pb2
from aios.errors import (
    Aborted,
    AiosError,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    StaleEpoch,
)
from services.data import layout, mapping, store
from services.data.manifests import Kind, Manifest
from tests.servers import S3Server, s3_server
from tests.service.data_service import PROJECT, Platform, digest, file, running, settings_at


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
async def platform(s3: S3Server, tmp_path: Path) -> AsyncIterator[Platform]:
    settings = s3.settings(settings_at(tmp_path), bucket=f"t{os.urandom(6).hex()}")
    async with running(settings) as started:
        yield started


async def events(platform: Platform, noun: str) -> list[tuple[str, str]]:
    table = store.metadata.tables["events"]
    rows = await platform.db.read(
        lambda tx: tx.execute(table.select().where(table.c.noun == noun).order_by(table.c.revision)).all()
    )
    return [(row.type, row.resource_id) for row in rows]


async def test_a_dataset_is_made_once_found_and_listed(platform: Platform) -> None:
    alice = platform.caller()

    name = await alice.dataset("digits", dataset=dataset_pb2.Dataset(description="by hand"))

    found = await alice.api.GetDataset(pb.GetDatasetRequest(name=name))
    assert (found.name, found.description, found.latest_version) == (
        f"{PROJECT}/datasets/digits",
        "by hand",
        "",
    )
    with pytest.raises(AlreadyExists):
        await alice.dataset("digits")
    assert await events(platform, "dataset") == [("created", "digits")]


async def test_a_create_that_is_sent_twice_makes_one_dataset(platform: Platform) -> None:
    alice, request_id = platform.caller(), str(uuid.uuid4())

    first = await alice.dataset("digits", request_id=request_id)
    second = await alice.dataset("digits", request_id=request_id)

    assert first == second
    with pytest.raises(InvalidArgument) as refused:
        await alice.dataset("letters", request_id=request_id)
    assert refused.value.reason == "REQUEST_ID_REUSED"


@pytest.mark.parametrize("dataset_id", ["", "Digits", "a/b", "..", "-", "@x", "x" * 64, "latest.1"])
async def test_a_dataset_id_that_is_no_name_is_refused(platform: Platform, dataset_id: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await platform.caller().dataset(dataset_id)
    assert list(refused.value.fields) == ["dataset_id"]


async def test_a_version_is_named_by_its_content(platform: Platform) -> None:
    alice = platform.caller()
    files = await alice.store_all({"b": b"2", "a": b"1"})

    one = await alice.commit(await alice.dataset("one"), files, message="first")
    two = await alice.commit(await alice.dataset("two"), files[::-1], message="other words")

    assert one.name.rsplit("/", 1)[1] == two.name.rsplit("/", 1)[1] == one.manifest_sha256[:16]
    assert (one.file_count, one.size_bytes, one.message, one.creator) == (2, 2, "first", "editor")


async def test_the_same_content_again_makes_no_version(platform: Platform) -> None:
    alice = platform.caller()
    name, files = await alice.dataset("d"), [await alice.store("a", b"1")]

    first = await alice.commit(name, files)
    again = await alice.commit(name, files, message="nothing new")

    assert again == first
    assert len(await events(platform, "dataset_version")) == 1


async def test_versions_form_a_line_and_old_content_becomes_the_latest_again(platform: Platform) -> None:
    alice, name = platform.caller(), await platform.caller().dataset("d")
    first = await alice.commit(name, [await alice.store("a", b"1")])
    second = await alice.commit(name, [await alice.store("a", b"2")])

    listed = await alice.api.ListDatasetVersions(pb.ListDatasetVersionsRequest(parent=name))
    assert [each.name for each in listed.dataset_versions] == [second.name, first.name]
    assert (first.parent_version, second.parent_version) == ("", first.name)
    assert await latest(alice, name) == second.name

    back = await alice.commit(name, [file("a", b"1")])

    assert back == first
    assert await latest(alice, name) == first.name


async def test_a_version_comes_with_its_files_by_path(platform: Platform) -> None:
    alice = platform.caller()
    files = await alice.store_all({"z": b"2", "a/1": b"1", "a/0": b"0"})
    made = await alice.commit(await alice.dataset("d"), files)

    found = await alice.api.GetDatasetVersion(pb.GetDatasetVersionRequest(name=made.name))

    assert [each.path for each in found.files] == ["a/0", "a/1", "z"]


async def test_the_manifest_lies_in_the_bucket_and_says_all(platform: Platform) -> None:
    alice = platform.caller()
    files = [await alice.store("a", b"1")]
    made = await alice.commit(await alice.dataset("d"), files)

    stored = await platform.blobs.get(layout.manifest("demo", made.manifest_sha256))

    manifest = Manifest.decode(stored, made.manifest_sha256)
    assert [(each.path, each.sha256) for each in manifest.files] == [("a", digest(b"1"))]


async def test_a_manifest_whose_commit_never_came_makes_no_version(platform: Platform) -> None:
    alice = platform.caller()
    name, files = await alice.dataset("d"), [await alice.store("a", b"1")]
    # What the service had done when it died.
    manifest = Manifest.of(Kind.DATASET, mapping.files_from_proto(files), "files")
    await platform.parts.contents.publish("demo", manifest)

    listed = await alice.api.ListDatasetVersions(pb.ListDatasetVersionsRequest(parent=name))
    assert not listed.dataset_versions
    with pytest.raises(NotFound):
        await latest(alice, name)
    assert (await alice.commit(name, files)).file_count == 1


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "../up", "a/../../up", "a//b", "./a", "a/.", "a\\b", "C:/x", "a\0b", "a\nb", "a\u202eb",
     "x" * 256, "a/" * 300 + "b"],
)  # fmt: skip
async def test_a_path_that_could_leave_its_folder_is_refused(platform: Platform, path: str) -> None:
    alice = platform.caller()
    name = await alice.dataset("d")

    with pytest.raises(InvalidArgument) as refused:
        await alice.commit(name, [file("fine", b"1"), file(path, b"1")])

    assert list(refused.value.fields) == ["dataset_version.files[1].path"]


async def test_paths_that_cannot_lie_in_one_folder_are_refused(platform: Platform) -> None:
    alice = platform.caller()
    name = await alice.dataset("d")
    for second in ("a", "a/b"):
        with pytest.raises(InvalidArgument) as refused:
            await alice.commit(name, [file("a", b"1"), file(second, b"2")])
        assert list(refused.value.fields) == ["dataset_version.files[1].path"]


async def test_a_version_of_nothing_is_refused(platform: Platform) -> None:
    alice = platform.caller()
    with pytest.raises(InvalidArgument) as refused:
        await alice.commit(await alice.dataset("d"), [])
    assert list(refused.value.fields) == ["dataset_version.files"]


async def test_lists_come_in_pages_until_the_token_is_empty(platform: Platform) -> None:
    alice = platform.caller()
    for number in range(5):
        await alice.dataset(f"d{number}")

    found, token = [], ""
    while True:
        page = await alice.api.ListDatasets(
            pb.ListDatasetsRequest(parent=PROJECT, page_size=2, page_token=token)
        )
        found += [each.name.rsplit("/", 1)[1] for each in page.datasets]
        token = page.next_page_token
        if not token:
            break

    assert found == ["d0", "d1", "d2", "d3", "d4"]
    with pytest.raises(InvalidArgument):
        await alice.api.ListDatasets(pb.ListDatasetsRequest(parent=PROJECT, page_size=-1))


async def test_downloads_come_in_pages_of_one_version(platform: Platform) -> None:
    alice, name = platform.caller(), await platform.caller().dataset("d")
    files = await alice.store_all({f"{number}": b"same" for number in range(3)})
    await alice.commit(name, files)
    parent = f"{name}/versions/latest"

    first = await alice.api.ListDownloads(pb.ListDownloadsRequest(parent=parent, page_size=2))
    rest = pb.ListDownloadsRequest(parent=parent, page_size=2, page_token=first.next_page_token)
    assert [each.file.path for each in (await alice.api.ListDownloads(rest)).downloads] == ["2"]

    await alice.commit(name, files[:1])
    with pytest.raises(Aborted):
        await alice.api.ListDownloads(rest)


async def test_a_model_version_makes_its_model_and_counts_from_one(platform: Platform) -> None:
    alice = platform.caller()
    one = await alice.register(
        "digits", [await alice.store("model.onnx", b"1")], metrics={"test_accuracy": 0.98}
    )
    two = await alice.register("digits", [await alice.store("model.onnx", b"2")])

    model = await alice.api.GetModel(pb.GetModelRequest(name=f"{PROJECT}/models/digits"))
    assert model.latest_version == two.name == f"{PROJECT}/models/digits/versions/2"
    assert (one.name[-2:], dict(one.metrics)) == ("/1", {"test_accuracy": 0.98})
    assert await alice.read(one.name) == {"model.onnx": b"1"}
    assert await events(platform, "model_version") == [("registered", "digits/1"), ("registered", "digits/2")]


async def test_a_model_version_is_found_by_number_latest_and_alias(platform: Platform) -> None:
    alice = platform.caller()
    model = f"{PROJECT}/models/digits"
    for content in (b"1", b"2"):
        await alice.register("digits", [await alice.store("model.onnx", content)])

    named = await alice.api.SetModelAlias(pb.SetModelAliasRequest(model=model, alias="champion", version="1"))

    assert dict(named.aliases) == {"champion": "1"}
    for asked, found in (("2", "2"), ("latest", "2"), ("@champion", "1")):
        version = await alice.api.GetModelVersion(pb.GetModelVersionRequest(name=f"{model}/versions/{asked}"))
        assert version.name == f"{model}/versions/{found}"
        assert [each.path for each in version.files] == ["model.onnx"]
    for missing in ("3", "0", "01", "@nobody", "x"):
        with pytest.raises(NotFound):
            await alice.api.GetModelVersion(pb.GetModelVersionRequest(name=f"{model}/versions/{missing}"))
    moved = await alice.api.SetModelAlias(
        pb.SetModelAliasRequest(model=model, alias="champion", version="latest")
    )
    assert dict(moved.aliases) == {"champion": "2"}
    with pytest.raises(InvalidArgument):
        await alice.api.SetModelAlias(pb.SetModelAliasRequest(model=model, alias="latest", version="1"))
    with pytest.raises(NotFound):
        await alice.api.SetModelAlias(pb.SetModelAliasRequest(model=model, alias="next", version="9"))


async def test_a_rejected_version_is_never_latest_and_gets_no_alias(platform: Platform) -> None:
    alice = platform.caller()
    model = f"{PROJECT}/models/digits"
    await alice.register("digits", [await alice.store("model.onnx", b"1")])
    rejected = await alice.register("digits", [await alice.store("model.onnx", b"2")], rejected="got slower")
    assert (rejected.name, rejected.rejected) == (f"{model}/versions/2", "got slower")

    latest = await alice.api.GetModelVersion(pb.GetModelVersionRequest(name=f"{model}/versions/latest"))
    assert latest.name == f"{model}/versions/1"
    with pytest.raises(FailedPrecondition, match="got slower") as refused:
        await alice.api.SetModelAlias(pb.SetModelAliasRequest(model=model, alias="champion", version="2"))
    assert refused.value.reason == "MODEL_VERSION_REJECTED"
    await alice.api.DeleteModelVersion(pb.DeleteModelVersionRequest(name=f"{model}/versions/1"))
    with pytest.raises(NotFound):
        await alice.api.GetModelVersion(pb.GetModelVersionRequest(name=f"{model}/versions/latest"))
    third = await alice.register("digits", [await alice.store("model.onnx", b"3")])
    assert third.name == f"{model}/versions/3"


async def test_a_run_registers_one_version_and_its_lineage(platform: Platform) -> None:
    alice, trainer = platform.caller(), platform.caller("service", project="default")
    trainer.project = PROJECT
    files, run = [await alice.store("model.onnx", b"1")], f"{PROJECT}/runs/r1"

    first = await trainer.register("digits", files, run=run)
    again = await trainer.register("digits", files, run=run)

    assert first == again
    assert first.run == run
    other = [await alice.store("model.onnx", b"2")]
    with pytest.raises(AlreadyExists) as refused:
        await trainer.register("digits", other, run=run)
    assert refused.value.reason == "RUN_REGISTERED"
    graph = await alice.api.GetLineage(pb.GetLineageRequest(parent=PROJECT, resource=first.name))
    assert [(each.source, each.target, each.relation) for each in graph.edges] == [
        (run, first.name, "produced")
    ]


async def test_only_the_platform_says_which_run_made_a_model(platform: Platform) -> None:
    alice = platform.caller()
    with pytest.raises(PermissionDenied) as refused:
        await alice.register("digits", [await alice.store("m", b"1")], run=f"{PROJECT}/runs/r1")
    assert refused.value.reason == "RUN_CLAIMED"


async def test_a_bad_signature_names_each_field(platform: Platform) -> None:
    alice = platform.caller()
    request = pb.CreateModelVersionRequest(parent=f"{PROJECT}/models/digits")
    request.model_version.files.append(await alice.store("m", b"1"))
    request.model_version.signature.inputs.add(name="x", datatype="float", shape=[0])
    request.model_version.metrics["loss"] = 1.0

    with pytest.raises(InvalidArgument) as refused:
        await alice.api.CreateModelVersion(request)

    assert set(refused.value.fields) == {
        "model_version.signature.inputs[0].datatype",
        "model_version.signature.inputs[0].shape",
        "model_version.signature.outputs",
    }
    with pytest.raises(NotFound):
        await alice.api.GetModel(pb.GetModelRequest(name=f"{PROJECT}/models/digits"))


async def test_a_metric_that_is_no_number_is_refused(platform: Platform) -> None:
    alice = platform.caller()
    with pytest.raises(InvalidArgument) as refused:
        await alice.register("m", [await alice.store("m", b"1")], metrics={"loss": float("nan")})
    assert list(refused.value.fields) == ["model_version.metrics['loss']"]


async def test_a_worker_stores_checkpoints_and_the_next_attempt_finds_the_newest(platform: Platform) -> None:
    first = platform.worker("r1", epoch=1)
    for step in (10, 200):
        await first.checkpoint("r1", 1, step, [await first.store("state", str(step).encode())])

    second = platform.worker("r1", epoch=2)
    listed = await second.api.ListCheckpoints(
        pb.ListCheckpointsRequest(parent=f"{PROJECT}/runs/r1", page_size=1)
    )

    newest = listed.checkpoints[0]
    assert newest.name == f"{PROJECT}/runs/r1/checkpoints/000001-000000000200"
    assert await second.read(newest.name) == {"state": b"200"}


async def test_an_attempt_that_was_replaced_stores_no_checkpoint(platform: Platform) -> None:
    old, new = platform.worker("r1", epoch=1), platform.worker("r1", epoch=2)
    files = [await old.store("state", b"1")]
    await old.checkpoint("r1", 1, 10, files)
    await new.checkpoint("r1", 2, 20, files)

    with pytest.raises(StaleEpoch) as refused:
        await old.checkpoint("r1", 1, 30, files)

    assert refused.value.metadata["newest_epoch"] == "2"
    listed = await new.api.ListCheckpoints(pb.ListCheckpointsRequest(parent=f"{PROJECT}/runs/r1"))
    assert [each.step for each in listed.checkpoints] == [20, 10]


async def test_a_checkpoint_sent_twice_is_one(platform: Platform) -> None:
    worker = platform.worker("r1", epoch=1)
    files = [await worker.store("state", b"1")]

    first = await worker.checkpoint("r1", 1, 10, files)

    assert await worker.checkpoint("r1", 1, 10, files) == first
    with pytest.raises(AlreadyExists):
        await worker.checkpoint("r1", 1, 10, [await worker.store("state", b"2")])
    assert await events(platform, "checkpoint") == [("created", "r1/000001-000000000010")]


async def test_a_worker_speaks_for_its_own_run_and_attempt_alone(platform: Platform) -> None:
    worker = platform.worker("r1", epoch=1)
    files = [await worker.store("state", b"1")]

    with pytest.raises(NotFound):
        await worker.checkpoint("r2", 1, 10, files)
    with pytest.raises(StaleEpoch):
        await worker.checkpoint("r1", 2, 10, files)
    with pytest.raises(PermissionDenied):
        await worker.dataset("d")
    with pytest.raises(PermissionDenied):
        await worker.api.RecordLineage(pb.RecordLineageRequest(parent=PROJECT))


async def test_lineage_is_walked_up_and_down(platform: Platform) -> None:
    alice, service = platform.caller(), platform.caller("service", project="default")
    data = (await alice.commit(await alice.dataset("d"), [await alice.store("a", b"1")])).name
    run, model = f"{PROJECT}/runs/r1", f"{PROJECT}/models/m/versions/1"
    serving = f"{PROJECT}/deployments/m"
    edges = [(data, run, "input"), (run, model, "produced"), (model, serving, "deployed")]
    request = pb.RecordLineageRequest(
        parent=PROJECT,
        edges=[pb.LineageEdge(source=source, target=target, relation=how) for source, target, how in edges],
    )

    await service.api.RecordLineage(request)
    await service.api.RecordLineage(request)

    async def walk(resource: str, direction: str) -> list[tuple[str, str, str]]:
        way = pb.GetLineageRequest.Direction.Value(f"DIRECTION_{direction}")
        graph = await alice.api.GetLineage(
            pb.GetLineageRequest(parent=PROJECT, resource=resource, direction=way)
        )
        assert not graph.truncated
        return [(each.source, each.target, each.relation) for each in graph.edges]

    assert await walk(serving, "UP") == edges[::-1]
    assert await walk(data, "DOWN") == edges
    assert await walk(f"{PROJECT}/datasets/d/versions/latest", "DOWN") == edges
    assert set(await walk(run, "BOTH")) == set(edges)
    assert await walk(serving, "DOWN") == []


@pytest.mark.parametrize(
    ("source", "target", "relation", "field"),
    [
        ("projects/other/runs/r", f"{PROJECT}/runs/r", "input", "edges[0].source"),
        (f"{PROJECT}/runs/r", "somewhere", "input", "edges[0].target"),
        (f"{PROJECT}/runs/r", f"{PROJECT}/runs/r", "input", "edges[0].target"),
        (f"{PROJECT}/runs/r", f"{PROJECT}/runs/s", "likes", "edges[0].relation"),
    ],
)
async def test_a_bad_edge_names_its_field(
    platform: Platform, source: str, target: str, relation: str, field: str
) -> None:
    service = platform.caller("service", project="default")
    edge = pb.LineageEdge(source=source, target=target, relation=relation)
    with pytest.raises(InvalidArgument) as refused:
        await service.api.RecordLineage(pb.RecordLineageRequest(parent=PROJECT, edges=[edge]))
    assert list(refused.value.fields) == [field]


async def test_another_projects_names_do_not_exist(platform: Platform) -> None:
    alice, mallory = platform.caller(), platform.caller(project="other")
    files = [await alice.store("a", b"1")]
    version = (await alice.commit(await alice.dataset("d"), files)).name
    model = (await alice.register("m", files)).name
    own = "projects/other"
    calls: list[tuple[Any, Any]] = [
        (mallory.api.GetDataset, pb.GetDatasetRequest(name=f"{PROJECT}/datasets/d")),
        (mallory.api.ListDatasets, pb.ListDatasetsRequest(parent=PROJECT)),
        (mallory.api.GetDatasetVersion, pb.GetDatasetVersionRequest(name=version)),
        (mallory.api.GetModelVersion, pb.GetModelVersionRequest(name=model)),
        (mallory.api.ListDownloads, pb.ListDownloadsRequest(parent=version)),
        (mallory.api.ListDownloads, pb.ListDownloadsRequest(parent=model)),
        (mallory.api.GetLineage, pb.GetLineageRequest(parent=PROJECT, resource=model)),
        (
            mallory.api.SetModelAlias,
            pb.SetModelAliasRequest(model=f"{PROJECT}/models/m", alias="x", version="1"),
        ),
        (
            mallory.api.GetDatasetVersion,
            pb.GetDatasetVersionRequest(name=f"{own}/datasets/d/versions/latest"),
        ),
    ]

    for method, request in calls:
        with pytest.raises(NotFound):
            await method(request)
    with pytest.raises(InvalidArgument):
        await mallory.api.GetLineage(pb.GetLineageRequest(parent=own, resource=model))


async def test_a_failed_commit_leaves_no_trace(platform: Platform) -> None:
    alice = platform.caller()
    name = await alice.dataset("d")
    known, unknown = await alice.store("a", b"1"), file("b", b"not uploaded")

    with pytest.raises(FailedPrecondition) as refused:
        await alice.commit(name, [known, unknown])
    with pytest.raises(AiosError):
        await alice.register("m", [known, unknown])

    assert "'b'" in refused.value.message
    assert not (await alice.api.ListModels(pb.ListModelsRequest(parent=PROJECT))).models
    assert await platform.blobs.entries("projects/demo/manifests/", 10) == []


async def latest(caller: Any, name: str) -> str:
    request = pb.GetDatasetVersionRequest(name=f"{name}/versions/latest")
    found: str = (await caller.api.GetDatasetVersion(request)).name
    return found
