"""What the unmodified `kserve` client gets of a server: run by an interpreter that has it, prints JSON by call.

    python kserve_calls.py http://HOST:PORT HOST:PORT MODEL       with a token in AIOS_TOKEN, if the server wants one

A call is the answer, or the class of what it raised. The model takes 64 numbers; nothing here knows the platform.
"""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import numpy as np
from kserve import (  # type: ignore[import-not-found]  # of another environment
    InferenceGRPCClient,
    InferenceRESTClient,
    InferInput,
    InferRequest,
)
from kserve.inference_client import RESTConfig  # type: ignore[import-not-found]

Call = Callable[[], Awaitable[Any]]
VALUES = np.arange(128, dtype=np.float32).reshape(2, 64)


def request(model: str, values: Any = VALUES, name: str = "x", binary: bool = False) -> InferRequest:
    tensor = InferInput(name=name, shape=list(values.shape), datatype="FP32")
    tensor.set_data_from_numpy(values, binary_data=binary)
    return InferRequest(model_name=model, infer_inputs=[tensor], request_id="r-1")


def plain(response: Any) -> Any:
    return {
        "model": response.model_name,
        "id": response.id,
        "outputs": {each.name: each.as_numpy().tolist() for each in response.outputs},
    }


def over_http(
    client: InferenceRESTClient, url: str, model: str, headers: Mapping[str, str]
) -> dict[str, Call]:
    async def infer(**more: Any) -> Any:
        return plain(await client.infer(url, request(model, **more), model_name=model, headers=headers))

    async def unknown() -> Any:
        return plain(await client.infer(url, request("nobody"), model_name="nobody", headers=headers))

    return {
        "live": lambda: client.is_server_live(url, headers=headers),
        "ready": lambda: client.is_server_ready(url, headers=headers),
        "model ready": lambda: client.is_model_ready(url, model, headers=headers),
        "infer": infer,
        "infer binary": lambda: infer(binary=True),
        "wrong input": lambda: infer(name="y"),
        "wrong shape": lambda: infer(values=VALUES[:, :2].copy()),
        "unknown model": unknown,
    }


def over_grpc(client: InferenceGRPCClient, model: str, headers: Mapping[str, str]) -> dict[str, Call]:
    metadata = list(headers.items())

    async def infer(asked: str = model, **more: Any) -> Any:
        return plain(await client.infer(request(asked, **more), headers=metadata))

    return {
        "live": lambda: client.is_server_live(headers=metadata),
        "ready": lambda: client.is_server_ready(headers=metadata),
        "model ready": lambda: client.is_model_ready(model, headers=metadata),
        "infer": infer,
        "infer binary": lambda: infer(binary=True),
        "wrong input": lambda: infer(name="y"),
        "wrong shape": lambda: infer(values=VALUES[:, :2].copy()),
        "unknown model": lambda: infer("nobody"),
    }


async def main(url: str, target: str, model: str) -> None:
    token = os.environ.get("AIOS_TOKEN", "")
    headers = {"authorization": f"Bearer {token}"} if token else {}
    rest = InferenceRESTClient(RESTConfig(protocol="v2", retries=0, timeout=20))
    grpc = InferenceGRPCClient(target, retries=0, timeout=20)
    calls = {f"HTTP {name}": call for name, call in over_http(rest, url, model, headers).items()}
    calls |= {f"gRPC {name}": call for name, call in over_grpc(grpc, model, headers).items()}
    found: dict[str, Any] = {}
    for name, call in calls.items():
        try:
            found[name] = await call()
        except Exception as error:  # noqa: BLE001  # what the client raises is the finding
            code = getattr(error, "code", None)
            known = (
                code().name
                if callable(code)
                else getattr(getattr(error, "response", None), "status_code", "")
            )
            found[name] = f"{type(error).__name__} {known}".strip()
    print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
