"""A run as several processes: they learn what one would, agree when to leave, and end within seconds of a loss."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from services.trainer.job.gang import Gang, take
from services.trainer.job.launcher import HUNG, Plan, Processes

ROOT = Path(__file__).parents[2]
TRAIN = [sys.executable, str(ROOT / "tests" / "ranks" / "train.py")]
STEPS = 15
Start = Callable[..., Processes]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts ranks in a folder, where a run without a platform lives."""

    def begin(command: list[str], plan: Plan, **hparams: Any) -> Processes:
        count = len(list(tmp_path.glob("beats*")))
        environment = {
            **os.environ,
            "AIOS_HPARAMS": json.dumps(hparams),
            "PYTHONPATH": str(ROOT),
        }
        return Processes(command, tmp_path, environment, plan, tmp_path / f"beats{count}")

    return begin


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> float:
    """What one process learns."""
    environment = {**os.environ, "AIOS_HPARAMS": json.dumps({"steps": STEPS}), "PYTHONPATH": str(ROOT)}
    folder = tmp_path_factory.mktemp("alone")
    said = subprocess.run(TRAIN, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    (final,) = finals(said.stdout)
    return final


def ended(processes: Processes) -> int:
    """Follow to the end, as a job does."""
    while (status := processes.poll()) is None:
        time.sleep(0.05)
    processes.kill()
    return status


def finals(text: str) -> list[float]:
    """What each rank says of its model."""
    # Both write to one file: a line's end may come after the other's beginning.
    return [float(each) for each in re.findall(r"final (\d+\.\d+)", text)]


def script(body: str) -> list[str]:
    head = """
        import os, signal, sys, time
        import aios.train
        rank = int(os.environ["RANK"])
    """
    return [sys.executable, "-c", dedent(head) + dedent(body)]


def test_two_ranks_learn_what_one_does_also_when_one_is_killed(
    start: Start, capfd: pytest.CaptureFixture[str], tmp_path: Path, alone: float
) -> None:
    assert ended(start(TRAIN, Plan(2), steps=STEPS, kill="1:12")) == -signal.SIGKILL
    assert not finals(capfd.readouterr().out)
    assert ended(start(TRAIN, Plan(2), steps=STEPS, kill="1:12")) == 0
    both = finals(capfd.readouterr().out)
    assert both == pytest.approx([alone, alone], rel=1e-6)
    lines = (tmp_path / "aios-run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, STEPS + 1)), "no step twice"


def test_what_two_ranks_have_sharded_one_takes_over_and_hands_back(
    start: Start, capfd: pytest.CaptureFixture[str], alone: float
) -> None:
    for ranks, leave_after in ((2, 5), (1, 10), (2, 0)):
        status = ended(start(TRAIN, Plan(ranks), steps=STEPS, leave_after=leave_after, shard=True))
        assert status == (143 if leave_after else 0)
    assert finals(capfd.readouterr().out) == pytest.approx([alone, alone], rel=1e-6)


def test_ranks_are_told_what_torchrun_tells(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    names = "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR OMP_NUM_THREADS"
    # In one write: the ranks share what they write to.
    told = f"os.write(1, (' '.join(map(os.environ.get, {names!r}.split())) + chr(10)).encode())"
    command = [sys.executable, "-c", f"import os; {told}"]
    assert ended(start(command, Plan(2, cores=4.0))) == 0
    assert sorted(capfd.readouterr().out.splitlines()) == ["0 0 2 2 127.0.0.1 2", "1 1 2 2 127.0.0.1 2"]


def test_the_first_that_fails_ends_all_with_its_own_code(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    command = [
        sys.executable,
        "-c",
        "import os, sys, time; os.environ['RANK'] == '1' and sys.exit(7); time.sleep(60)",
    ]
    processes = start(command, Plan(2))
    assert ended(processes) == 7
    assert time.monotonic() - began < 30
    assert "rank 1 ended with 7" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("plan", "body", "why"),
    [
        (
            Plan(2, still_seconds=1.0),
            """
            with aios.train.init() as run:
                if rank == 1:
                    time.sleep(1)
                    os.kill(os.getpid(), signal.SIGSTOP)
                time.sleep(60)
            """,
            "rank 1 hangs: no sign of life",
        ),
        (
            Plan(2, hang_seconds=2.0),
            """
            with aios.train.init() as run:
                for step in range(10_000):
                    run.report(step, loss=0.0)
                    time.sleep(60 if rank == 1 and step == 3 else 0.05)
            """,
            "rank 1 hangs: no step",
        ),
    ],
)
def test_a_rank_that_hangs_is_found_in_seconds(
    start: Start, capfd: pytest.CaptureFixture[str], plan: Plan, body: str, why: str
) -> None:
    began = time.monotonic()
    assert ended(start(script(body), plan)) == HUNG
    assert time.monotonic() - began < 30
    assert why in capfd.readouterr().err


def test_all_are_asked_to_leave_and_each_leaves_in_its_own_time(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    body = """
    with aios.train.init() as run:
        print("ready", flush=True)
        while not run.should_stop():
            time.sleep(0.05)
        time.sleep(rank)
        print("leaves", flush=True)
        run.leave()
    """
    processes = start(script(body), Plan(2))
    said = ""
    while said.count("ready") < 2:
        assert processes.poll() is None
        time.sleep(0.05)
        said += capfd.readouterr().out
    processes.ask()
    assert ended(processes) == 143
    assert capfd.readouterr().out.count("leaves") == 2


def test_ranks_of_two_replicas_learn_what_those_of_one_would(start: Start, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    halves = [
        start(TRAIN, Plan(1, gang=Gang(replica, 2, "127.0.0.1", port)), steps=STEPS) for replica in (0, 1)
    ]
    assert Plan(3, gang=Gang(1, 2, "", 0)).first_rank == 3
    assert [ended(half) for half in halves] == [0, 0]


def test_a_job_takes_its_place_in_a_gang_out_of_its_own_environment() -> None:
    environment = {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "29500",
        "A": "b",
    }
    assert take(environment) == Gang(1, 2, "10.0.0.1", 29500)
    assert environment == {"A": "b"}
    assert take(environment) is None
