"""A device with an agent and a leaf node behind the TLS door: it runs what is approved and signed, and alone if need be."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from aios.client import Client
from aios.common.v1.tensor_pb2 import Signature, TensorSpec
from aios.data.v1 import edge_pb2
from aios.stack.authority import Authority
from tests.clients import loop
from tests.e2e.stack import Stack, eventually
from tests.faults.links import Link, Trouble
from tests.servers import free_port

pytestmark = pytest.mark.timeout(180)
SIGNATURE = Signature(
    inputs=[TensorSpec(name="x", datatype="FP32", shape=[3])],
    outputs=[TensorSpec(name="y", datatype="FP32", shape=[1])],
    max_batch_size=8,
)


def model(folder: Path, factor: float, inputs: int = 3) -> Path:
    """A model that sums up its inputs and multiplies by `factor`."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "sums",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
        [onnx.numpy_helper.from_array(np.full((inputs, 1), factor, np.float32), "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    folder.mkdir()
    (folder / "model.onnx").write_bytes(made.SerializeToString())
    return folder


@dataclass
class Agent:
    """`aios edge agent`, as a device runs it."""

    address: str
    process: subprocess.Popen[bytes]

    def ask(self) -> tuple[str, float]:
        """Version and answer for three ones."""
        answer = httpx.post(f"{self.address}/predict", json=[[1, 1, 1]], trust_env=False).json()
        version = str(answer["model_version"]).rpartition("/")[2]
        return version, float(answer["predictions"][0]["outputs"]["y"][0])

    def runs(self) -> str:
        """Which version answers; empty for none."""
        try:
            said = httpx.get(f"{self.address}/health", trust_env=False).json()
        except httpx.TransportError:
            return ""
        return str(said.get("model_version", "")).rpartition("/")[2]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


@contextmanager
def device(made: Path, port: int, authority: Authority, key: Path, home: Path) -> Iterator[Agent]:
    serve = f"127.0.0.1:{free_port()}"
    command: list[str | Path] = [sys.executable, "-m", "aios.cli", "edge", "agent", "--credentials", made]
    command += ["--key", key, "--home", home, "--server", f"tls://127.0.0.1:{port}"]
    command += ["--authority", authority.certificate, "--serve", serve]
    environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    with (home.parent / f"{home.name}.log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    agent = Agent(f"http://{serve}", process)
    try:
        yield agent
    finally:
        agent.stop()


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return tmp_path / "edge.pem"


def create(aios: Stack, folder: Path, name: str, follows: str) -> Path:
    made = folder / f"{name}.json"
    made.write_text(aios.aios("edge", "device", "create", name, "--follows", follows, "--json").out)
    return made


def told(client: Client, name: str, running: str, predictions: int) -> edge_pb2.EdgeDevice:
    """The device, once it has told that it runs a version and has answered so often."""

    def so() -> edge_pb2.EdgeDevice | None:
        now = client.edge.get_device(name)
        count = sum(each.predictions for each in now.figures)
        assert count <= predictions, f"{count} predictions are counted of {predictions}"
        return now if now.running_version.endswith(f"/{running}") and count == predictions else None

    found = eventually(so, f"{name} runs {running} and has answered {predictions}", 60)
    assert found is not None
    return found


def test_a_device_serves_alone_and_then_runs_what_was_approved_meanwhile(
    aios: Stack, client: Client, authority: Authority, tmp_path: Path, key: Path
) -> None:
    for number in (1, 2, 3):
        client.models.register(model(tmp_path / str(number), number), "sums", SIGNATURE)
    client.models.register(model(tmp_path / "4", 4, inputs=5), "sums", SIGNATURE)  # it cannot answer
    client.models.set_alias("sums/1", "field")
    made = create(aios, tmp_path, "roof", "sums/@field")
    aios.aios("edge", "sign", "sums/1", "--key", key)
    public, home = key.with_suffix(".pub"), tmp_path / "roof"
    port = int(aios.variables["AIOS_EDGE_ADDRESS"].rpartition(":")[2])
    with loop.running() as run:
        link = Link("field", lambda: port)
        run(link.open())
        with device(made, link.port, authority, public, home) as agent:
            eventually(lambda: agent.runs() == "1", "the first version answers", 60)
            assert [agent.ask() for _ in range(3)] == [("1", 3.0)] * 3

            trouble = link.troubled(Trouble.REFUSE)
            run(trouble.__aenter__())
            client.models.set_alias("sums/2", "field")
            aios.aios("edge", "sign", "sums/2", "--key", key)
            assert agent.ask() == ("1", 3.0)
        with device(made, link.port, authority, public, home) as agent:  # it restarts where no platform is
            eventually(lambda: agent.runs() == "1", "the last version answers without a platform", 60)
            assert agent.ask() == ("1", 3.0)
            run(trouble.__aexit__(None, None, None))
            eventually(lambda: agent.runs() == "2", "the version that was approved meanwhile answers", 60)
            assert agent.ask() == ("2", 6.0)

            client.models.set_alias("sums/3", "field")  # approved, and not signed
            client.models.set_alias("sums/4", "field")
            aios.aios("edge", "sign", "sums/4", "--key", key)
            eventually(lambda: client.edge.get_device("roof").problem, "the device says what is wrong", 60)
            assert "does not answer" in client.edge.get_device("roof").problem
            assert agent.ask() == ("2", 6.0)

            other = tmp_path / "other.pem"
            client.models.set_alias("sums/3", "field")
            aios.aios("edge", "sign", "sums/3", "--key", other)
            eventually(
                lambda: "signature" in client.edge.get_device("roof").problem, "another key is refused", 60
            )
            assert agent.ask() == ("2", 6.0)
        with device(made, link.port, authority, public, home):
            found = told(client, "roof", "2", 8)
        run(link.close())
    counted = {each.model_version.rpartition("/")[2]: each.predictions for each in found.figures}
    assert counted == {"1": 5, "2": 3}
