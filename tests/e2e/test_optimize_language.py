"""A language model is made smaller, judged as it is served, and the version that comes of it answers over both doors."""

import json
import queue
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as over_grpc
import yaml

from tests.e2e.stack import Stack
from tests.service import language_models

pytestmark = pytest.mark.timeout(600)
PLAN = {
    "dataset": "sentences",
    "steps": [{"low_rank": {"keep": 0.8, "samples": 16}}, {"lora": {"steps": 4}}, "weight_only"],
    # What is measured here is the machine's load: that a limit is kept is tested without one.
    "limits": {"perplexity": 10, "smaller": 1.5, "slower": 1000},
    "block_tokens": 32,
    "test_blocks": 8,
}


def test_a_smaller_language_model_is_judged_registered_and_served(aios: Stack, tmp_path: Path) -> None:
    aios.aios("model", "register", language_models.causal(tmp_path / "causal"), "speaks")
    (tmp_path / "data").mkdir()
    lines = [f"the {'red' if n % 2 else 'black'} cat sat on mat {n % 7}" for n in range(200)]
    for part in ("train", "test"):
        (tmp_path / "data" / f"{part}.csv").write_text("\n".join(["text", *lines]))
    aios.aios("dataset", "push", "sentences", tmp_path / "data")
    plan = tmp_path / "optimize.yaml"
    plan.write_text(yaml.safe_dump(PLAN))

    verdict = aios.aios("optimize", "speaks/1", "-f", plan, "--wait", "--json").json

    assert verdict["passed"], verdict["missed"]
    assert verdict["smaller"] > 1.5
    assert verdict["agreement"] >= 0.75
    low, high = (verdict["variant"]["perplexity"][key] for key in ("low", "high"))
    assert low < verdict["variant"]["perplexity"]["value"] < high
    assert verdict["variant"]["served"]["memory_bytes"] > 0
    assert verdict["variant"]["served"]["batches"]["8"]["tokens_per_second"] > 0
    assert verdict["calibration_sha256"]
    version = verdict["modelVersion"]
    edges = aios.aios("lineage", version, "--json").json
    assert {(edge["source"], edge["target"]) for edge in edges} >= {
        ("projects/default/models/speaks/versions/1", verdict["run"]),
        (verdict["run"], version),
    }

    aios.aios("deploy", "speaks-optimized/1", "--name", "light", "--wait")
    prompt, text = verdict["prompts"][0], verdict["variant"]["continuations"][0]
    asked = json.dumps({"temperature": 0, "max_tokens": 32})
    with aios.http() as http:
        body = {"text_input": prompt, "sampling_parameters": asked}
        answer = http.post("/v2/models/light/generate", json=body).raise_for_status().json()
    assert _streamed(aios, prompt, asked) == answer["text_output"] == text
    aios.aios("deployment", "delete", "light")


def _streamed(aios: Stack, prompt: str, asked: str) -> str:
    """Over gRPC, whose answer is a stream."""
    tensors = []
    for name, text in (("text_input", prompt), ("sampling_parameters", asked)):
        tensor = over_grpc.InferInput(name, [1], "BYTES")
        tensor.set_data_from_numpy(np.array([text.encode()], dtype=np.object_))
        tensors.append(tensor)
    heard: queue.Queue[Any] = queue.Queue()
    with over_grpc.InferenceServerClient(aios.target) as client:
        client.start_stream(lambda result, error: heard.put(error or result), headers=aios.bearer())
        client.async_stream_infer("light", tensors)
        result = heard.get(timeout=60)
    assert not isinstance(result, Exception), result
    return str(result.as_numpy("text_output")[0].decode())
