"""A small model, served: what predictions cost when the model costs nothing."""

import hashlib
from typing import Any

import httpx
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from bench.stack import Stack

NAME = "linear"
READY_SECONDS = 90.0
INFER = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": [0.0] * 64}]}
SIGNATURE = {
    "inputs": [{"name": "x", "datatype": "FP32", "shape": ["64"]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": ["10"]}],
    "maxBatchSize": 64,
}
PROJECT = "/v1/projects/default"


async def serve(running: Stack, replicas: int) -> None:
    """Register the model and have it answer from so many replicas."""
    headers = {"authorization": f"Bearer {running.token}"}
    content = _onnx()
    sha256 = hashlib.sha256(content).hexdigest()
    file = {"sha256": sha256, "sizeBytes": str(len(content))}
    async with (
        httpx.AsyncClient(
            base_url=running.state.address, headers=headers, trust_env=False, timeout=30
        ) as api,
        httpx.AsyncClient(trust_env=False) as store,
    ):
        upload = _json(await api.post(f"{PROJECT}/uploads:begin", json=file))
        (await store.put(upload["url"], content=content, headers=upload["headers"])).raise_for_status()
        _json(await api.post(f"/v1/{upload['name']}:complete", json={}))
        _json(await api.post(f"{PROJECT}/models?modelId={NAME}", json={}))
        version = {"files": [{"path": "model.onnx", **file}], "signature": SIGNATURE}
        _json(await api.post(f"{PROJECT}/models/{NAME}/versions", json=version))
    async with running.client() as client:
        await client.deployments.deploy(f"{NAME}/1", NAME, replicas=replicas, wait=True)


def _onnx() -> bytes:
    """`y = x @ w`."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        NAME,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(np.ones((64, 10), np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def _json(response: httpx.Response) -> Any:
    if response.status_code != 200:
        raise RuntimeError(f"{response.request.url}: {response.status_code} {response.text}")
    return response.json()
