"""kill -9 while things run: what was accepted is finished, what answers goes on or comes back."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from aios.client import Client
from aios.names import RunName
from aios.trainer.v1 import run_pb2
from tests.e2e import digits
from tests.e2e.stack import Stack, eventually
from tests.e2e.steady import steady

pytestmark = pytest.mark.timeout(400)

CONTROL_PLANE = ("trainer", "scheduler", "data", "gateway", "inference", "nats", "s3")
"""None of these answers predictions."""
UNDER_WAY = (run_pb2.Run.STATE_QUEUED, run_pb2.Run.STATE_STARTING, run_pb2.Run.STATE_RUNNING)


def test_a_run_outlives_the_agent_that_started_it(aios: Stack, client: Client, run: dict[str, Any]) -> None:
    submitted = client.runs.submit(digits.spec())
    reached(client, submitted.name, 20)

    aios.kill_and_wait("agent")

    ended = client.runs.wait(submitted.name)
    assert ended.state == run_pb2.Run.STATE_SUCCEEDED, ended.state_message
    assert ended.epoch == 1, "the next agent took the running process over"
    assert digits.curve(client, ended.name) == digits.curve(client, run["name"])


def test_a_killed_training_process_goes_on_from_its_checkpoint(
    aios: Stack, client: Client, run: dict[str, Any]
) -> None:
    submitted = client.runs.submit(digits.spec())
    reached(client, submitted.name, 50)  # behind the checkpoint of step 40

    training(aios, submitted.name).kill()

    ended = client.runs.wait(submitted.name)
    assert (ended.state, ended.epoch) == (run_pb2.Run.STATE_SUCCEEDED, 2), ended.state_message
    log = b"".join(client.runs.logs(ended.name)).decode()
    assert "restored step" in log
    curve = digits.curve(client, ended.name)
    assert sorted(step for key, step in curve if key == "loss") == digits.REPORTED
    assert curve == digits.curve(client, run["name"]), "as if it had never been killed"


def test_the_control_plane_dies_piece_by_piece_and_nothing_is_lost(
    aios: Stack, client: Client, run: dict[str, Any], deployment: dict[str, Any], folder: Path
) -> None:
    with steady(aios, "digits", digits.held_out(folder)[0][:1]) as predictions:
        submitted: list[str] = []
        for service in CONTROL_PLANE:
            # A run is under way at each kill, however fast the machine trains.
            if not submitted or client.runs.get(submitted[-1]).state not in UNDER_WAY:
                submitted.append(client.runs.submit(digits.spec()).name)
                reached(client, submitted[-1], 10)
            seconds = aios.kill_and_wait(service)
            print(f"{service} was back after {seconds:.1f} s", file=sys.stderr)
        ended = [client.runs.wait(name) for name in submitted]
        predictions.wait(time.monotonic())

    for each in ended:
        assert each.state == run_pb2.Run.STATE_SUCCEEDED, each.state_message
        assert each.model_version
        assert digits.curve(client, each.name) == digits.curve(client, run["name"])
    assert not predictions.failures, f"{len(predictions.failures)} of {len(predictions.answers)}"


def test_predictions_come_back_after_envoy_was_killed(
    aios: Stack, deployment: dict[str, Any], folder: Path
) -> None:
    with steady(aios, "digits", digits.held_out(folder)[0][:1]) as predictions:
        predictions.wait(0.0)

        seconds = aios.kill_and_wait("envoy")

        predictions.wait(time.monotonic())
    print(
        f"envoy was back after {seconds:.1f} s; {len(predictions.failures)} predictions failed",
        file=sys.stderr,
    )


def test_a_replica_whose_model_process_was_killed_is_replaced(
    aios: Stack, client: Client, deployment: dict[str, Any], folder: Path
) -> None:
    before = replica(client)
    with steady(aios, "digits", digits.held_out(folder)[0][:1]) as predictions:
        predictions.wait(0.0)
        (stub,) = model_processes(aios, before.job)
        killed = time.monotonic()
        stub.kill()

        eventually(lambda: replica(client).epoch > before.epoch, "a new attempt of the replica")
        predictions.wait(time.monotonic())
    back = min(
        a.at for a in predictions.answers if not a.error and a.at > max(f.at for f in predictions.failures)
    )
    print(
        f"the replica was back after {back - killed:.1f} s; {len(predictions.failures)} predictions failed",
        file=sys.stderr,
    )
    assert client.jobs.get(before.job).epoch == before.epoch + 1
    unexpected = [
        f for f in predictions.failures if not f.error.startswith(("503 ", "[StatusCode.UNAVAILABLE]"))
    ]
    assert not unexpected, "a caller is told to try again, whatever the model server says"


def test_the_next_supervisor_finds_everything_that_the_killed_one_had(
    aios: Stack, client: Client, deployment: dict[str, Any], folder: Path
) -> None:
    submitted = client.runs.submit(digits.spec())
    reached(client, submitted.name, 50)
    address = aios.address

    os.kill(aios.state.pid, signal.SIGKILL)
    aios.up()

    assert aios.address == address, "clients still know it"
    with steady(aios, "digits", digits.held_out(folder)[0][:1]) as predictions:
        predictions.wait(time.monotonic())
    ended = client.runs.wait(submitted.name)
    assert ended.state == run_pb2.Run.STATE_SUCCEEDED, ended.state_message
    losses = [step for key, step in digits.curve(client, ended.name) if key == "loss"]
    assert sorted(losses) == digits.REPORTED


def reached(client: Client, run: str, step: int) -> None:
    """Return once the run has reported a step."""
    for message in client.runs.follow(run):
        assert message.run.state not in (run_pb2.Run.STATE_SUCCEEDED, run_pb2.Run.STATE_FAILED), message.run
        if message.run.progress.step >= step:
            return


def training(aios: Stack, run: str) -> psutil.Process:
    """The process that trains a run; its job has the run's id."""
    found = aios.running("services.trainer.job", job=RunName.parse(run).run)
    return next(process for process in found if "shim.py" not in " ".join(process.cmdline()))


def model_processes(aios: Stack, job: str) -> set[psutil.Process]:
    """Those that hold a replica's model: Triton starts them without our environment, so by who started them."""
    servers = aios.running("services.inference.replica", job.rpartition("/")[2])
    started = {process for server in servers for process in server.children(recursive=True)}
    return {process for process in started if "triton_python_backend_stub" in " ".join(process.cmdline())}


def replica(client: Client) -> Any:
    """The replica of the deployment's live revision."""
    return next(iter(client.deployments.history("digits"))).replicas[0]
