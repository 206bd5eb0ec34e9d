"""Models for the benchmarks of deployments: one that is right, one that fails on real data, one that is slow, one broken."""

import hashlib
from typing import Any

import httpx
import numpy as np
import psutil
from onnx import TensorProto, helper, numpy_helper

from aios.client import AsyncClient
from bench.stack import Stack

NAME = "linear"
SIGNATURE = {
    "inputs": [{"name": "x", "datatype": "FP32", "shape": ["64"]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": ["10"]}],
    "maxBatchSize": 64,
}
PROJECT = "/v1/projects/default"
LARGE_WIDTH = 35_500
SLOW_SIZE, SLOW_LAYERS = 1024, 64  # some ten milliseconds of one core

BROKEN = b"this is no ONNX file"


def good() -> bytes:
    """`y = x @ w`."""
    return _model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": np.ones((64, 10), np.float32)})


def failing() -> bytes:
    """The same for zeros, which is what a replica is probed with; anything else is out of a table's range."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["scores"]),
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Mul", ["most", "many"], ["place"]),
        helper.make_node("Cast", ["place"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["found"]),
        helper.make_node("Add", ["scores", "found"], ["y"]),
    ]
    constants = {
        "w": np.ones((64, 10), np.float32),
        "many": np.array(1000, np.float32),
        "table": np.zeros(10, np.float32),
    }
    return _model(nodes, constants)


def slow() -> bytes:
    """The same by a long way round."""
    nodes = [helper.make_node("MatMul", ["x", "widen"], ["wide0"])]
    nodes += [
        helper.make_node("MatMul", [f"wide{layer}", "turn"], [f"wide{layer + 1}"])
        for layer in range(SLOW_LAYERS)
    ]
    nodes.append(helper.make_node("MatMul", [f"wide{SLOW_LAYERS}", "narrow"], ["y"]))
    constants = {
        "widen": np.ones((64, SLOW_SIZE), np.float32),
        "turn": np.eye(SLOW_SIZE, dtype=np.float32),
        "narrow": np.ones((SLOW_SIZE, 10), np.float32),
    }
    return _model(nodes, constants)


def large(seed: int) -> tuple[bytes, list[float]]:
    """One of 10 MB, and what it answers to 64 ones. Another seed is another model: nothing is at hand already."""
    draw = np.random.default_rng(seed)
    wide = draw.normal(size=(64, LARGE_WIDTH)).astype(np.float32)
    narrow = draw.normal(size=(LARGE_WIDTH, 10)).astype(np.float32) / LARGE_WIDTH
    nodes = [
        helper.make_node("MatMul", ["x", "wide"], ["h"]),
        helper.make_node("MatMul", ["h", "narrow"], ["y"]),
    ]
    right = np.ones((1, 64), np.float32) @ wide @ narrow
    return _model(nodes, {"wide": wide, "narrow": narrow}), right[0].tolist()


async def register(running: Stack, content: bytes, model: str = NAME) -> str:
    """Upload a model and register it as the next version. Returns the version as people type it."""
    sha256 = hashlib.sha256(content).hexdigest()
    file = {"sha256": sha256, "sizeBytes": str(len(content))}
    headers = {"authorization": f"Bearer {running.token}"}
    async with (
        httpx.AsyncClient(
            base_url=running.state.address, headers=headers, trust_env=False, timeout=30
        ) as api,
        httpx.AsyncClient(trust_env=False) as store,
    ):
        upload = _json(await api.post(f"{PROJECT}/uploads:begin", json=file))
        if upload.get("url"):
            (await store.put(upload["url"], content=content, headers=upload["headers"])).raise_for_status()
            _json(await api.post(f"/v1/{upload['name']}:complete", json={}))
        made = await api.post(f"{PROJECT}/models?modelId={model}", json={})
        if made.status_code != httpx.codes.CONFLICT:
            _json(made)
        version = {"files": [{"path": "model.onnx", **file}], "signature": SIGNATURE}
        name = str(_json(await api.post(f"{PROJECT}/models/{model}/versions", json=version))["name"])
    return name.partition("/models/")[2].replace("/versions/", "/")


async def servers(client: AsyncClient) -> list[psutil.Process]:
    """The model servers of the deployment, found by the ports that they listen on."""
    revisions = [each async for each in client.deployments.history(NAME, 10)]
    ports = {one.grpc_port for each in revisions for one in each.replicas if one.grpc_port}
    listening = [each for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
    return [
        psutil.Process(each.pid) for each in listening if each.pid and each.laddr and each.laddr[1] in ports
    ]


def _model(nodes: list[Any], constants: dict[str, Any]) -> bytes:
    graph = helper.make_graph(
        nodes,
        NAME,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def _json(response: httpx.Response) -> Any:
    if response.status_code != httpx.codes.OK:
        raise RuntimeError(f"{response.request.url}: {response.status_code} {response.text}")
    return response.json()
