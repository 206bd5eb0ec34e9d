"""A language model as a replica: generated together, streamed, cancelled, refused with the reason; and vectors."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from services.inference.replica.install import install
from tests.service import language_models
from tests.service.replica_platform import RunningReplica, replica, until

pytestmark = pytest.mark.timeout(300)
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
START_SECONDS = 120.0
"""Some seconds on an idle machine: torch and its libraries are read from disk."""


@pytest.fixture(scope="module")
def triton_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("triton")
    install(home)
    return home


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        yield client


def url(running: RunningReplica, verb: str) -> str:
    return f"http://127.0.0.1:{running.ports['HTTP']}/v2/models/digits/{verb}"


def asked(prompt: str = "", **parameters: Any) -> dict[str, str]:
    return {"text_input": prompt, "sampling_parameters": json.dumps({"temperature": 0, **parameters})}


async def test_it_generates_streams_and_refuses(
    tmp_path: Path, triton_home: Path, http: httpx.AsyncClient
) -> None:
    made = language_models.files(language_models.causal)
    async with replica(tmp_path, triton_home, made, language_models.GENERATES) as running:
        await running.ready(START_SECONDS)

        whole = (await http.post(url(running, "generate"), json=asked("Once", max_tokens=20))).json()
        streamed = asked("Once", max_tokens=20, stream=True)
        async with http.stream("POST", url(running, "generate_stream"), json=streamed) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            lines = [line async for line in answer.aiter_lines()]
        pieces = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
        together = await asyncio.gather(
            *(http.post(url(running, "generate"), json=asked("Once", max_tokens=20)) for _ in range(6)),
            *(http.post(url(running, "generate"), json=asked("x" * 40, max_tokens=9)) for _ in range(6)),
        )
        refused = [
            (await http.post(url(running, "generate"), json=wrong)).json()["error"]
            for wrong in (
                asked("x", temperature=9),
                asked("x", max_tokns=9),
                asked("x" * 600),
                asked("x", messages=[{"role": "user"}]),
                {"text_input": "x", "sampling_parameters": "[" * 100_000},
            )
        ]
        traced = {**asked("Once", max_tokens=2), "traceparent": TRACEPARENT}
        (await http.post(url(running, "generate"), json=traced)).raise_for_status()
        await until(lambda: bool(running.platform.spans), 30)
        [weights] = [each for each in running.below() if "services.inference.replica.lm" in each.cmdline()]
        weights.kill()
        assert await running.ended(60) == 1

    print("SPANS", [(s, x.name, x.trace_id.hex()) for s, x in running.platform.spans])
    assert ("triton", "model.compute", TRACEPARENT[3:35]) in [
        (service, span.name, span.trace_id.hex()) for service, span in running.platform.spans
    ]
    assert (whole["prompt_tokens"], whole["completion_tokens"], whole["finish_reason"]) == (4, 20, "length")
    assert "".join(each["text_output"] for each in pieces) == whole["text_output"]
    assert (len(pieces) > 1, pieces[-1]["finish_reason"]) == (True, "length")
    assert {each.json()["text_output"] for each in together[:6]} == {whole["text_output"]}
    assert len({each.json()["text_output"] for each in together[6:]}) == 1
    for said, word in zip(
        refused, ("temperature", "max_tokns", "600 tokens", "content", "sampling"), strict=True
    ):
        assert word in said
    assert not psutil.pid_exists(weights.pid) or weights.status() == psutil.STATUS_ZOMBIE


async def test_texts_become_vectors(tmp_path: Path, triton_home: Path, http: httpx.AsyncClient) -> None:
    made = language_models.files(language_models.encoder)
    async with replica(tmp_path, triton_home, made, language_models.EMBEDS) as running:
        await running.ready(START_SECONDS)
        texts = ["a", "longer text", "a"]
        tensor = {"name": "text_input", "datatype": "BYTES", "shape": [3, 1], "data": texts}
        answer = (await http.post(url(running, "infer"), json={"inputs": [tensor]})).json()

    outputs = {each["name"]: np.array(each["data"]).reshape(each["shape"]) for each in answer["outputs"]}
    assert outputs["embedding"].shape == (3, 16)
    assert np.allclose(np.linalg.norm(outputs["embedding"], axis=1), 1, atol=1e-5)
    assert np.allclose(outputs["embedding"][0], outputs["embedding"][2], atol=1e-5)
    assert outputs["tokens"].ravel().tolist() == [1, 11, 1]
