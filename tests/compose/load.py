"""Work that goes on while containers are killed: jobs are submitted, and a model is asked."""

import base64
import io
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

JOBS = "/v1/projects/default/jobs"
PREDICT = "/v1/projects/default/deployments/digits:predict"
PAUSE_SECONDS = 1.0
CALL_SECONDS = 10.0
SPEC: Mapping[str, Any] = {"command": ["sleep", "2"], "resources": {"cpuMillis": 100}}
ACTIVE = frozenset({"STATE_QUEUED", "STATE_STARTING", "STATE_RUNNING"})


@dataclass
class Load:
    """What was promised while it ran."""

    client: httpx.Client
    question: Mapping[str, Any]
    prefix: str
    accepted: list[str] = field(default_factory=list)
    """Jobs whose submission was answered."""
    states: dict[str, str] = field(default_factory=dict)
    """How those ended that `look` has seen end."""
    stop: threading.Event = field(default_factory=threading.Event)

    def submit(self) -> None:
        """One job after the other until `stop`; one that nobody answered is submitted again by the same name."""
        while not self.stop.is_set():
            name = f"{self.prefix}-{len(self.accepted)}"
            try:
                answer = self.client.post(JOBS, params={"jobId": name}, json={"spec": SPEC})
            except httpx.HTTPError:
                answer = None
            if answer is not None and (answer.is_success or answer.status_code == httpx.codes.CONFLICT):
                self.accepted.append(name)
            self.stop.wait(PAUSE_SECONDS)

    def look(self) -> list[str]:
        """The accepted jobs that have not ended yet, as far as anybody answers."""
        for name in [name for name in self.accepted if name not in self.states]:
            state = self.client.get(f"{JOBS}/{name}").raise_for_status().json()["state"]
            if state not in ACTIVE:
                self.states[name] = state
        return [name for name in self.accepted if name not in self.states]

    def predicts(self) -> bool:
        """Whether the model answers now."""
        return self.client.post(PREDICT, json=self.question).is_success


@contextmanager
def running(address: str, token: str, prefix: str, digits: Path) -> Iterator[Load]:
    """Submit until the block ends.

    Args:
        digits: The demo's data.
    """
    headers = {"authorization": f"Bearer {token}"}
    with httpx.Client(base_url=address, headers=headers, timeout=CALL_SECONDS) as client:
        load = Load(client, _question(digits), prefix)
        thread = threading.Thread(target=load.submit, name="load")
        thread.start()
        try:
            time.sleep(2 * PAUSE_SECONDS)
            yield load
        finally:
            load.stop.set()
            thread.join()


def _question(digits: Path) -> Mapping[str, Any]:
    out = io.BytesIO()
    Image.fromarray(np.load(digits / "test" / "images.npy")[0]).save(out, "PNG")
    return {"instances": [{"b64": base64.b64encode(out.getvalue()).decode()}]}
