"""Tracking with an unmodified client of MLflow: this platform beside MLflow's own server, on the same machine.

MLflow (client and server, SQLite behind it) is installed into `build/mlflow`, at the version of `requirements/mlflow.lock`.
The same program measures both, in turns: how many metrics a second it logs one by one, and in batches of 100; then how
long a search over 10,000 runs takes, of which a tenth matches.
"""

import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from bench import stack
from bench.report import Report
from tests.servers import free_port

ROUNDS, METRICS, BATCHES, SEARCHES = 5, 200, 20, 40
RUNS = 10_000
START_SECONDS = 120.0  # it imports much
TIMES_MIN, SEARCH_MILLIS_MAX = 5.0, 200.0
REPOSITORY = Path(__file__).resolve().parent.parent
HOME = REPOSITORY / "build" / "mlflow"
LOGS = """
import json, sys, time
from mlflow import MlflowClient
from mlflow.entities import Metric
metrics, batches = map(int, sys.argv[1:])
client = MlflowClient()
run = client.create_run("0").info.run_id
client.log_metric(run, "warm", 0.0)
began = time.perf_counter()
for step in range(metrics):
    client.log_metric(run, "loss", 1 / (step + 1), step=step)
one = metrics / (time.perf_counter() - began)
now = int(time.time() * 1000)
began = time.perf_counter()
for number in range(batches):
    points = [Metric(f"m{each}", float(each), now, number) for each in range(100)]
    client.log_batch(run, metrics=points)
print(json.dumps({"one": one, "batched": 100 * batches / (time.perf_counter() - began)}))
"""
SEARCH = """
import json, sys, time
from mlflow import MlflowClient
client = MlflowClient()
took = []
for number in range(int(sys.argv[1])):
    began = time.perf_counter()
    found = client.search_runs(["0"], "metrics.accuracy >= 0.9 AND params.model = 'cnn'",
                               max_results=50, order_by=["metrics.accuracy DESC"])
    took.append(1000 * (time.perf_counter() - began))
    assert len(found) == 50
print(json.dumps(took))
"""
FILL = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
client = MlflowClient()
now = int(time.time() * 1000)
def make(number):
    run = client.create_run("0").info.run_id
    model = "cnn" if number % 2 else "mlp"
    client.log_batch(run, [Metric("accuracy", number % 100 / 100, now, 1)], [Param("model", model)])
with ThreadPoolExecutor(4) as pool:
    list(pool.map(make, range(int(sys.argv[1]))))
"""


def main() -> None:
    report = Report("trainer_tracking")
    searched = int(sys.argv[1]) if sys.argv[1:] else RUNS
    report.say("installing MLflow into build/mlflow, unless it is there")
    _install()
    with stack.running(AIOS_CALLS_PER_SECOND="1000000") as ours, _mlflow() as theirs:
        address = {
            "ours": {"MLFLOW_TRACKING_URI": ours.state.address, "MLFLOW_TRACKING_TOKEN": ours.token},
            "mlflow": {"MLFLOW_TRACKING_URI": theirs},
        }
        found: dict[str, list[dict[str, float]]] = {name: [] for name in address}
        for _ in range(ROUNDS):
            for name, variables in address.items():
                found[name].append(_run(LOGS, variables, METRICS, BATCHES))
        for kind in ("one", "batched"):
            for name, rounds in found.items():
                report.figure(
                    f"{name}_metrics_per_second_{kind}", statistics.median(each[kind] for each in rounds)
                )
        rate = statistics.median(
            a["one"] / b["one"] for a, b in zip(found["ours"], found["mlflow"], strict=True)
        )
        report.bar("log_metric_rate_of_mlflow", rate, at_least=TIMES_MIN)
        report.say(f"making {searched} runs here")
        _run(FILL, address["ours"], searched)
        took = sorted(_run(SEARCH, address["ours"], SEARCHES))
        report.figure("search_runs", searched)
        report.figure("search_p50_ms", took[len(took) // 2])
        report.bar("search_p95_ms", took[int(len(took) * 0.95)], SEARCH_MILLIS_MAX)
    report.finish()


def _install() -> None:
    if (HOME / "bin" / "mlflow").exists():
        return
    pinned = re.search(
        r"^mlflow-skinny==(\S+)", (REPOSITORY / "requirements" / "mlflow.lock").read_text(), re.M
    )
    assert pinned is not None
    subprocess.run([sys.executable, "-m", "venv", HOME], check=True)
    subprocess.run([HOME / "bin" / "pip", "install", "--quiet", f"mlflow=={pinned[1]}"], check=True)


@contextmanager
def _mlflow() -> Iterator[str]:
    """MLflow's server with SQLite behind it; its address."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="aios-bench-mlflow-") as folder:
        server = subprocess.Popen(
            [
                HOME / "bin" / "mlflow",
                "server",
                "--port",
                str(port),
                "--backend-store-uri",
                f"sqlite:///{folder}/mlflow.db",
                "--artifacts-destination",
                folder,
            ],
            env=os.environ | {"PATH": f"{HOME / 'bin'}:{os.environ['PATH']}"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            _wait(f"http://127.0.0.1:{port}/health", server)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, 15)
            server.wait()


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and server.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, trust_env=False).is_success:
                return
        time.sleep(0.2)
    raise RuntimeError(f"MLflow's server does not answer after {START_SECONDS:.0f} s")


def _run(program: str, variables: dict[str, str], *arguments: int) -> Any:
    done = subprocess.run(
        [HOME / "bin" / "python", "-c", program, *map(str, arguments)],
        env={**os.environ, **variables, "MLFLOW_ENABLE_ASYNC_LOGGING": "false"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else None


if __name__ == "__main__":
    main()
