"""The door beside BentoML and LitServe with the same ONNX model on the same machine: HTTP, JSON, one model process each.

Each peer is installed into an environment of its own, `build/serving/<peer>`, and serves by the program below, as its
documentation does it, with what it does by default: no token, no trace, no second replica. Ours is asked at the public
door, with token, limits and trace. Load by `wrk`; sides take turns within each round, and a ratio is the median over
rounds of what was measured side by side. Both the load and the servers have the same cores.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from bench import load, serving_models, stack
from bench.load import Result, Side
from bench.report import Report
from bench.stack import Stack
from tests.servers import free_port

NAME = serving_models.NAME
ROUNDS, SECONDS = 5, 3
CALLERS = (1, 16, 32)
START_SECONDS = 120.0  # they import much
HOME = Path(__file__).resolve().parent.parent / "build" / "serving"
SESSION = """
import os
import numpy as np
import onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = 1
def session():
    return ort.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
"""


@dataclass(frozen=True)
class Peer:
    """Another server of models."""

    name: str
    needs: tuple[str, ...]
    program: str
    command: tuple[str, ...]
    """In the folder of the program; `PORT` is the port."""
    path: str


PEERS = (
    Peer(
        "bentoml",
        ("bentoml==1.4.39",),
        SESSION
        + """
import bentoml
@bentoml.service(workers=1)
class Linear:
    def __init__(self):
        self.session = session()
    @bentoml.api
    def infer(self, x: np.ndarray) -> np.ndarray:
        return self.session.run(["y"], {"x": x.astype(np.float32)})[0]
""",
        ("bin/bentoml", "serve", "served:Linear", "--host", "127.0.0.1", "--port", "PORT"),
        "/infer",
    ),
    Peer(
        "litserve",
        ("litserve==0.2.19",),
        SESSION
        + """
import litserve
class Linear(litserve.LitAPI):
    def setup(self, device):
        self.session = session()
    def decode_request(self, request):
        return np.array(request["x"], np.float32)
    def predict(self, x):
        return self.session.run(["y"], {"x": x})[0]
    def encode_response(self, y):
        return {"y": y.tolist()}
if __name__ == "__main__":
    server = litserve.LitServer(Linear(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(os.environ["PORT"]), generate_client_file=False)
""",
        ("bin/python", "served.py"),
        "/predict",
    ),
)


async def main() -> None:
    report = Report("serving_peers")
    load.need("wrk")
    peers = [each for each in PEERS if each.name in sys.argv[1:] or not sys.argv[1:]]
    for peer in peers:
        report.say(f"installing {peer.name} into {HOME.name}/{peer.name}, unless it is there")
        _install(peer)
    report.say("starting a stack and one replica")
    with contextlib.ExitStack() as cleanup:
        running = cleanup.enter_context(stack.running(AIOS_CALLS_PER_SECOND="1000000"))
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="aios-bench-peers-")))
        model = serving_models.good()
        (folder / "model.onnx").write_bytes(model)
        async with running.client() as client:
            version = await serving_models.register(running, model)
            await client.deployments.deploy(version, NAME, wait=True)
        sides = [_ours(running, folder)]
        sides += [cleanup.enter_context(_theirs(peer, folder)) for peer in peers]
        for callers in CALLERS:
            _conclude(report, await asyncio.to_thread(_take_turns, report, sides, callers), callers)
    report.finish()


def _take_turns(report: Report, sides: list[Side], callers: int) -> dict[str, list[Result]]:
    report.say(f"{len(sides)} servers x {ROUNDS} rounds x {SECONDS} s, {callers} at a time")
    found: dict[str, list[Result]] = {side.name: [] for side in sides}
    for _ in range(ROUNDS):
        for side in sides:
            found[side.name].append(load.run(side, callers, SECONDS))
    return found


def _conclude(report: Report, found: Mapping[str, list[Result]], callers: int) -> None:
    for name, rounds in found.items():
        report.figure(f"{name}_c{callers}_per_second", statistics.median(each.per_second for each in rounds))
        report.figure(f"{name}_c{callers}_p99_ms", statistics.median(each.p99_millis for each in rounds))
    for name, rounds in found.items():
        if name == "aios" or callers == 1:
            continue
        pairs = list(zip(found["aios"], rounds, strict=True))
        rate = statistics.median(ours.per_second / theirs.per_second for ours, theirs in pairs)
        tail = statistics.median(ours.p99_millis / theirs.p99_millis for ours, theirs in pairs)
        report.bar(f"throughput_c{callers}_times_{name}", rate, at_least=1.0)
        report.bar(f"p99_c{callers}_times_{name}", tail, 1.0)


def _ours(running: Stack, folder: Path) -> Side:
    body = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": [1.0] * 64}]})
    headers = {"content-type": "application/json", "authorization": f"Bearer {running.token}"}
    url = f"{running.state.address}/v2/models/{NAME}/infer"
    return load.wrk("aios", url, body, headers, folder, SECONDS)


@contextlib.contextmanager
def _theirs(peer: Peer, folder: Path) -> Iterator[Side]:
    """A peer's server, and how it is asked."""
    port, place = free_port(), folder / peer.name
    place.mkdir()
    (place / "served.py").write_text(peer.program)
    own = HOME / peer.name
    variables = {"MODEL": str(folder / "model.onnx"), "PORT": str(port), "OMP_NUM_THREADS": "1"}
    variables |= {
        "PATH": f"{own / 'bin'}:{os.environ['PATH']}",
        "DO_NOT_TRACK": "1",
        "BENTOML_DO_NOT_TRACK": "True",
    }
    with (place / "log").open("w") as log:
        server = subprocess.Popen(
            [own / peer.command[0], *(str(port) if word == "PORT" else word for word in peer.command[1:])],
            cwd=place,
            env=os.environ | variables,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    url, body = f"http://127.0.0.1:{port}{peer.path}", json.dumps({"x": [[1.0] * 64]})
    try:
        _wait(url, body, server, place / "log")
        yield load.wrk(peer.name, url, body, {"content-type": "application/json"}, folder, SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)


def _wait(url: str, body: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Until it predicts."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and server.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.post(
                url, content=body, headers={"content-type": "application/json"}, trust_env=False, timeout=10
            )
            if answer.is_success:
                return
        time.sleep(0.2)
    raise RuntimeError(f"{url} does not predict:\n{log.read_text()[-2000:]}")


def _install(peer: Peer) -> None:
    """Into an environment of its own; one that was left half-way is made anew."""
    home = HOME / peer.name
    if (home / "whole").exists():
        return
    shutil.rmtree(home, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", home], check=True)
    needs = [*peer.needs, "onnxruntime==1.31.1", "numpy"]
    subprocess.run([home / "bin" / "pip", "install", "--quiet", *needs], check=True)
    (home / "whole").touch()


if __name__ == "__main__":
    asyncio.run(main())
