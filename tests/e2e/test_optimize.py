"""A trained model is made smaller, judged through Triton, and the version that comes of it is served."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
import yaml

from tests.e2e import digits
from tests.e2e.stack import Stack

pytestmark = pytest.mark.timeout(240)

PLAN = {
    "steps": [{"int8_static": {"samples": 200}}],
    # What is measured here is the machine's load: that a limit is kept is tested without one.
    "limits": {"points_lost": 5, "smaller": 3.5, "slower": 1000},
    "measure_seconds": 0.2,
}


def test_a_smaller_version_is_judged_registered_and_served(
    aios: Stack, run: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "optimize.yaml"
    plan.write_text(yaml.safe_dump(PLAN))

    verdict = aios.aios("optimize", "digits/1", "-f", plan, "--wait", "--json").json

    assert verdict["passed"], verdict["missed"]
    assert verdict["smaller"] > 3.5
    assert set(verdict["variant"]["served"]["batches"]) == {"1", "8", "32"}
    assert verdict["calibration_sha256"]
    version = verdict["modelVersion"]
    assert version.endswith("/models/digits-optimized/versions/1")
    edges = aios.aios("lineage", version, "--json").json
    assert {(edge["source"], edge["target"]) for edge in edges} >= {
        (run["modelVersion"], verdict["run"]),
        (verdict["run"], version),
    }
    assert "**PASS" in aios.json("model", "get", "digits-optimized/1")["card"]

    aios.aios("deploy", "digits-optimized/1", "--name", "small", "--wait")
    images, _ = digits.held_out(folder)
    answers = [_ask(door, aios, images[:32].astype(np.float32)) for door in (over_http, over_grpc)]
    assert np.array_equal(*answers)
    aios.aios("model", "pull", "digits-optimized/1", tmp_path / "model")
    session = onnxruntime.InferenceSession(str(tmp_path / "model" / "model.onnx"))
    (offline,) = session.run(None, {"image": images[:32]})
    assert np.abs(answers[0] - offline).max() < 1e-4
    aios.aios("deployment", "delete", "small")


def _ask(door: Any, aios: Stack, images: Any) -> Any:
    tensor = door.InferInput("image", list(images.shape), "FP32")
    tensor.set_data_from_numpy(images)
    with door.InferenceServerClient(aios.target) as server:
        return server.infer("small", [tensor], headers=aios.bearer()).as_numpy("logits")
