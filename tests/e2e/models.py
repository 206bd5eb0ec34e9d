"""Model versions that no run made: uploaded and registered over the JSON API, as a program in any language would."""

import hashlib
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
from onnx import numpy_helper

from tests.e2e.stack import Stack

MODEL = "/v1/projects/default/models/digits"


def register(aios: Stack, content: bytes) -> str:
    """Register `content` as the next version of the digits model, with the first one's signature. Returns its name."""
    sha256 = hashlib.sha256(content).hexdigest()
    with aios.http() as api, httpx.Client(trust_env=False) as store:
        upload = body(
            api.post(
                "/v1/projects/default/uploads:begin", json={"sha256": sha256, "sizeBytes": str(len(content))}
            )
        )
        store.put(upload["url"], content=content, headers=upload["headers"]).raise_for_status()
        body(api.post(f"/v1/{upload['name']}:complete", json={}))
        version = {
            "files": [{"path": "model.onnx", "sha256": sha256, "sizeBytes": str(len(content))}],
            "signature": body(api.get(f"{MODEL}/versions/1"))["signature"],
        }
        return str(body(api.post(f"{MODEL}/versions", json=version))["name"])


def shifted(aios: Stack, folder: Path, amount: float) -> bytes:
    """The first version's network, with `amount` added to every logit: the same classes, told apart at a glance."""
    aios.aios("model", "pull", "digits/1", folder)
    model = onnx.load(folder / "model.onnx")
    bias = next(each for each in model.graph.initializer if list(each.dims) == [10])
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(amount), bias.name))
    return bytes(model.SerializeToString())


def body(response: httpx.Response) -> Any:
    """The answer's JSON, if all went well."""
    assert response.status_code == 200, response.text
    return response.json()
