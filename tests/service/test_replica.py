"""The replica as a process: it serves, says so, is traced, and ends whole when it cannot."""

import asyncio
import itertools
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException

from services.inference.replica.install import install
from tests.service.replica_platform import (
    REVISION,
    STATE,
    WEIGHTS_DC,
    RunningReplica,
    as_bytes,
    linear_model,
    replica,
    signature,
    until,
)

X_BD = np.random.default_rng(1).normal(size=(3, 64)).astype(np.float32)
TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACED = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01"}
DOORS: tuple[Any, ...] = (over_http, over_grpc)


@pytest.fixture(scope="session")
def triton_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("triton")
    install(home)
    return home


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    before = set(Path("/dev/shm").glob("aios-*"))
    yield
    left = {path.name for path in set(Path("/dev/shm").glob("aios-*")) - before}
    # What another server on this machine is using is not ours.
    assert not {name for name in left if not _in_use(name)}


def _in_use(segment: str) -> bool:
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):
            if segment in maps.read_text():
                return True
    return False


def client(door: Any, running: RunningReplica) -> Any:
    port = running.ports["HTTP" if door is over_http else "GRPC"]
    return door.InferenceServerClient(f"127.0.0.1:{port}")


def predict(door: Any, running: RunningReplica, x: Any, **options: Any) -> Any:
    tensor = door.InferInput("x", x.shape, "FP64" if x.dtype == np.float64 else "FP32")
    tensor.set_data_from_numpy(x)
    return client(door, running).infer("digits", [tensor], **options).as_numpy("y")


async def test_an_unmodified_client_predicts_on_both_doors(tmp_path: Path, triton_home: Path) -> None:
    async with replica(tmp_path, triton_home) as running:
        await running.ready()
        for door in DOORS:
            y = await asyncio.to_thread(predict, door, running, X_BD)
            np.testing.assert_allclose(y, X_BD @ WEIGHTS_DC, rtol=1e-4)
    report = running.platform.reports[-1]
    assert [each.state for each in running.platform.reports[:2]] == [STATE.STATE_STARTING, STATE.STATE_READY]
    assert (report.host, report.http_port, report.epoch) == ("127.0.0.1", running.ports["HTTP"], 1)
    assert (report.job, report.grpc_port) == ("projects/demo/jobs/digits-1", running.ports["GRPC"])


async def test_a_traced_request_has_a_compute_span_on_both_doors(tmp_path: Path, triton_home: Path) -> None:
    async with replica(tmp_path, triton_home) as running:
        await running.ready()
        for door in DOORS:
            await asyncio.to_thread(predict, door, running, X_BD, headers=dict(TRACED))
            await asyncio.to_thread(predict, door, running, X_BD)  # without a trace, without a span
        await until(lambda: len(running.platform.spans) == 2, 5)
    for service, span in running.platform.spans:
        assert (service, span.name) == ("triton", "model.compute")
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE_ID, PARENT_ID)
        assert 0 < span.end_time_unix_nano - span.start_time_unix_nano < 1e9
        attributes = {each.key: each.value for each in span.attributes}
        assert attributes["aios.revision"].string_value == REVISION
        assert attributes["aios.batch.rows"].int_value == 3


async def test_its_start_is_part_of_the_trace_that_made_the_job(tmp_path: Path, triton_home: Path) -> None:
    async with replica(tmp_path, triton_home, environment={"TRACEPARENT": TRACED["traceparent"]}) as running:
        await running.ready()
        await until(lambda: len(running.platform.spans) >= 3, 5)
    spans = {span.name: (service, span.trace_id.hex()) for service, span in running.platform.spans}
    expected = ("replica", TRACE_ID)
    assert spans == {"model.fetch": expected, "model.load": expected, "replica.start": expected}


async def test_requests_that_wait_together_run_as_one_batch(tmp_path: Path, triton_home: Path) -> None:
    async with replica(tmp_path, triton_home, batch_delay_micros=200_000) as running:
        await running.ready()
        rows = [X_BD[:1], X_BD[1:], X_BD]
        calls = [asyncio.to_thread(predict, over_http, running, x, headers=dict(TRACED)) for x in rows]
        for x, y in zip(rows, await asyncio.gather(*calls), strict=True):
            np.testing.assert_allclose(y, x @ WEIGHTS_DC, rtol=1e-4)
        await until(lambda: len(running.platform.spans) == 3, 5)
    batches = [
        {each.key: each.value.int_value for each in span.attributes}["aios.batch.rows"]
        for _, span in running.platform.spans
    ]
    assert max(batches) > 3


async def test_a_wrong_tensor_is_refused_by_name(tmp_path: Path, triton_home: Path) -> None:
    cases = [
        (np.zeros((1, 63), np.float32), "unexpected shape for input 'x'"),
        (np.zeros((1, 64), np.float64), "input 'x' data-type is 'FP64'"),
        (np.zeros((65, 64), np.float32), "batch-size must be <= 64"),
    ]
    async with replica(tmp_path, triton_home) as running:
        await running.ready()
        for door, (x, complaint) in itertools.product(DOORS, cases):
            with pytest.raises(InferenceServerException) as refused:
                await asyncio.to_thread(predict, door, running, x)
            assert complaint in str(refused.value)


async def test_tritons_administration_is_closed(tmp_path: Path, triton_home: Path) -> None:
    calls = (
        "get_model_repository_index",
        "get_trace_settings",
        "get_log_settings",
        "get_system_shared_memory_status",
    )
    async with replica(tmp_path, triton_home) as running:
        await running.ready()
        for door, call in itertools.product(DOORS, calls):
            with pytest.raises(InferenceServerException, match="restricted"):
                await asyncio.to_thread(getattr(client(door, running), call))


async def test_text_scalars_and_free_dimensions(tmp_path: Path, triton_home: Path) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Identity", ["text"], ["same"]),
            helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0),
        ],
        "classify",
        [
            helper.make_tensor_value_info("text", TensorProto.STRING, ["n", "t"]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 4]),
        ],
        [
            helper.make_tensor_value_info("same", TensorProto.STRING, ["n", "t"]),
            helper.make_tensor_value_info("label", TensorProto.INT64, ["n"]),
        ],
    )
    tensors = signature(
        {"text": ("BYTES", [-1]), "scores": ("FP32", [4])},
        {"same": ("BYTES", [-1]), "label": ("INT64", [])},
        max_batch_size=8,
    )
    async with replica(tmp_path, triton_home, {"m.onnx": as_bytes(graph)}, tensors) as running:
        await running.ready()
        text = over_http.InferInput("text", [2, 2], "BYTES")
        text.set_data_from_numpy(np.array([["grün", "b"], ["", "d"]], dtype=object))
        scores = over_http.InferInput("scores", [2, 4], "FP32")
        scores.set_data_from_numpy(np.eye(4, dtype=np.float32)[[3, 1]])
        answer = await asyncio.to_thread(client(over_http, running).infer, "digits", [text, scores])
    assert answer.as_numpy("label").ravel().tolist() == [3, 1]
    assert answer.as_numpy("same").ravel().tolist() == ["grün".encode(), b"b", b"", b"d"]


async def test_a_killed_model_process_ends_the_replica_at_once(tmp_path: Path, triton_home: Path) -> None:
    async with replica(tmp_path, triton_home) as running:
        await running.ready()
        below = running.below()
        running.model_process().kill()
        assert await running.ended(within=1.5) == 1
        assert gone(below)
        assert running.platform.state() == STATE.STATE_FAILED
        assert running.platform.reports[-1].message == "the model's process ended"


async def test_a_model_that_hangs_is_found_by_the_probe(tmp_path: Path, triton_home: Path) -> None:
    async with replica(tmp_path, triton_home) as running:
        await running.ready()
        below = running.below()
        running.model_process().suspend()
        assert await running.ended(within=4) == 1
        assert gone(below)
        assert "does not answer" in running.platform.reports[-1].message


async def test_a_killed_server_ends_the_replica(tmp_path: Path, triton_home: Path) -> None:
    async with replica(tmp_path, triton_home) as running:
        await running.ready()
        below = running.below()
        next(each for each in below if each.name() == "tritonserver").kill()
        assert await running.ended(within=2.5) == 1
        assert gone(below)


async def test_a_stopped_replica_leaves_no_process(tmp_path: Path, triton_home: Path) -> None:
    async with replica(tmp_path, triton_home) as running:
        await running.ready()
        below = running.below()
        running.process.send_signal(signal.SIGTERM)
        assert await running.ended(within=7) == 0
        assert gone(below)
        assert running.platform.state() == STATE.STATE_READY
    assert list((tmp_path / "scratch").iterdir()) == []


async def test_a_killed_replica_leaves_no_process(tmp_path: Path, triton_home: Path) -> None:
    async with replica(tmp_path, triton_home) as running:
        await running.ready()
        below = running.below()
        running.process.kill()
        await until(lambda: gone(below), 2)


async def test_a_replica_outlives_the_services(tmp_path: Path, triton_home: Path) -> None:
    async with replica(tmp_path, triton_home) as running:
        await running.ready()
        await running.stop_services()
        await asyncio.sleep(3)
        y = await asyncio.to_thread(predict, over_grpc, running, X_BD)
        np.testing.assert_allclose(y, X_BD @ WEIGHTS_DC, rtol=1e-4)


async def test_a_superseded_replica_ends(tmp_path: Path, triton_home: Path) -> None:
    async with replica(tmp_path, triton_home) as running:
        await running.ready()
        running.platform.newer_attempt = True
        assert await running.ended(within=5) == 1


async def test_a_model_that_cannot_be_loaded_says_why(tmp_path: Path, triton_home: Path) -> None:
    other = signature({"pixels": ("FP32", [64])}, {"y": ("FP32", [10])}, max_batch_size=64)
    async with replica(tmp_path, triton_home, tensors=other) as running:
        assert await running.ended(within=10) == 1
    assert running.platform.state() == STATE.STATE_FAILED
    assert "the signature has input 'pixels'" in running.platform.reports[-1].message


async def test_bytes_that_are_not_the_registered_ones_are_not_served(
    tmp_path: Path, triton_home: Path
) -> None:
    async with replica(tmp_path, triton_home, digests={"model.onnx": "1" * 64}) as running:
        assert await running.ended(within=10) == 1
    assert "'model.onnx' is not the one registered" in running.platform.reports[-1].message


async def test_a_users_model_py_never_runs(tmp_path: Path, triton_home: Path) -> None:
    files = {"model.onnx": linear_model(), "model.py": b"import os; os._exit(1)", "config.pbtxt": b"nonsense"}
    async with replica(tmp_path, triton_home, files) as running:
        await running.ready()
        y = await asyncio.to_thread(predict, over_http, running, X_BD)
        np.testing.assert_allclose(y, X_BD @ WEIGHTS_DC, rtol=1e-4)


async def test_the_models_process_sees_no_secret_of_ours(tmp_path: Path, triton_home: Path) -> None:
    async with replica(tmp_path, triton_home) as running:
        await running.ready()
        seen = running.model_process().environ()
    assert not {name for name in seen if name.startswith(("AIOS_TOKEN", "AIOS_ADDRESS", "PYTHON"))}


def gone(processes: list[psutil.Process]) -> bool:
    return not [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
