"""A served model in the stack under test."""

import hashlib

import httpx

from tests.doors.live import Live
from tests.e2e.stack import eventually
from tests.service.replica_platform import linear_model

DEPLOYMENT = "linear"
SERVED_SECONDS = 60.0
"""For Triton's installation and its start, on a busy machine."""
SIGNATURE = {
    "inputs": [{"name": "x", "datatype": "FP32", "shape": ["64"]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": ["10"]}],
    "maxBatchSize": 64,
}


def serve(live: Live, project: str) -> None:
    """Deploy a small network in a project, and wait until it answers."""
    content = linear_model()
    sha256, size = hashlib.sha256(content).hexdigest(), str(len(content))
    parent = f"/v1/projects/{project}"
    upload = live.operate("POST", f"{parent}/uploads:begin", {"sha256": sha256, "sizeBytes": size})
    if upload.get("url"):
        httpx.put(
            upload["url"], content=content, headers=upload["headers"], trust_env=False
        ).raise_for_status()
        live.operate("POST", f"/v1/{upload['name']}:complete", {})
    live.operate("POST", f"{parent}/models", {}, modelId=DEPLOYMENT)
    file = {"path": "model.onnx", "sha256": sha256, "sizeBytes": size}
    version = live.operate(
        "POST", f"{parent}/models/{DEPLOYMENT}/versions", {"files": [file], "signature": SIGNATURE}
    )
    spec = {"modelVersion": version["name"], "replicas": 1}
    live.operate("POST", f"{parent}/deployments", {"spec": spec}, deploymentId=DEPLOYMENT)

    def ready() -> bool:
        found = live.operate("GET", f"{parent}/deployments/{DEPLOYMENT}")
        return bool(found["state"] == "STATE_READY")

    eventually(ready, "the model is served", SERVED_SECONDS)
