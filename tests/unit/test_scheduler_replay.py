"""The journal of decisions: played again it decides the same, it stays small, and a difference is found."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from aios.names import JobName
from services.scheduler import jobs
from services.scheduler.attempts import Attempt, AttemptState
from services.scheduler.engine.snapshot import Snapshot
from services.scheduler.jobs import Job
from services.scheduler.journal import CALLS, FILES_MAX, Journal, JournalPool, files_of
from services.scheduler.nodes import Node, NodeState
from services.scheduler.plan import Snapshot as Records
from services.scheduler.plan import plan
from services.scheduler.policies import Policy
from services.scheduler.progress import Progress
from services.scheduler.queues import Queue
from services.scheduler.replay import main, replay
from services.scheduler.resources import Resources
from services.scheduler.specs import JobSpec

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
NODES = [
    Node("a", NodeState.READY, Resources(8000, 2**33, {"gpu/A": 4})),
    Node("b", NodeState.READY, Resources(4000, 2**33, {"gpu/B": 2})),
    Node("c", NodeState.LOST, Resources(4000)),
]
QUEUES = [Queue("p", nominal={"gpu": 2}, limit={"cpu": 6000}), Queue("q", "p", lending={})]


def live(journal: Journal, policy: Policy, steps: int, seed: int = 0) -> None:
    """A pool's life: jobs come, run, report, give way, end; a node is lost."""
    rng, pool, now = random.Random(seed), JournalPool(journal), BEGAN
    here: dict[JobName, Job] = {}
    nodes = list(NODES)
    pool.snapshot.remember(3600.0, {"p": {"gpu/A": 1.5}}, now.timestamp())
    for number in range(steps):
        now += timedelta(seconds=rng.randrange(1, 200))
        if number == steps // 2:
            nodes[1] = replace(nodes[1], state=NodeState.LOST)
        name = JobName(rng.choice("pqr"), f"j{number}")
        asks = Resources(rng.choice([500, 2000]), 0, {"gpu": rng.randrange(0, 3)})
        here[name] = replace(jobs.create(name, JobSpec(("secret",), asks), now), number=number)
        snapshot = Records(
            [each for each in here.values() if each.state is jobs.State.QUEUED],
            nodes,
            [each for each in here.values() if each.state in jobs.HOLDS_RESOURCES],
            policy,
            QUEUES if number % 7 else QUEUES[:1],
        )
        decided = plan(snapshot, now, preempt=number % 3 == 0, pool=pool)
        for stopped in decided.stops:
            here[stopped] = jobs.preempt(here[stopped], now)
        for start in decided.starts:
            here[start.job] = jobs.assign(here[start.job], start.nodes, start.granted, now)
        for each in list(here.values()):
            if each.attempt is None or each.state not in jobs.HOLDS_RESOURCES or rng.random() < 0.5:
                continue
            if each.state is jobs.State.STARTING:
                here[each.name] = jobs.report(each, _said(each.attempt, AttemptState.RUNNING), now)
            elif each.state is jobs.State.STOPPING or rng.random() < 0.4:
                ended = jobs.report(each, _said(each.attempt, AttemptState.ENDED, rng.randrange(2)), now)
                here[each.name] = ended
            else:
                said = Progress(each.epoch, rng.randrange(100), 1000, 0.5, saves=True)
                here[each.name] = replace(each, progress=said)
        here = {name: each for name, each in here.items() if each.state not in jobs.FINAL}


def _said(attempt: Attempt, state: AttemptState, code: int = 0) -> Attempt:
    return replace(attempt, state=state, exit_code=code if state is AttemptState.ENDED else None)


@pytest.mark.parametrize("algorithm", ["fcfs", "balanced", "fair", "max-min"])
def test_what_was_written_down_is_decided_again(tmp_path: Path, algorithm: str) -> None:
    journal = Journal(tmp_path)
    live(journal, Policy(algorithm, preempt_interval=timedelta(seconds=30)), 25)
    journal.flush()
    found = replay(files_of(tmp_path)[-1])
    assert (found.plans, found.differs) == (25, "")
    assert found.inputs > 50


def test_the_journal_is_bounded_and_every_file_is_complete(tmp_path: Path) -> None:
    journal = Journal(tmp_path, file_bytes_max=10_000)
    live(journal, Policy("fair"), 80)
    journal.flush()
    files = files_of(tmp_path)
    assert len(files) == FILES_MAX
    assert all(file.stat().st_size < 40_000 for file in files)
    assert all(replay(file).differs == "" and replay(file).plans for file in files)


def test_a_decision_that_was_another_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = Journal(tmp_path)
    live(journal, Policy("fcfs"), 10)
    journal.flush()
    [file] = files_of(tmp_path)
    assert main([str(tmp_path)]) == 0
    text = file.read_text()
    assert "secret" not in text, "no command is written down"
    file.write_text(text.replace('"starts":[["projects', '"starts":[["project', 1) + "[cut")
    assert main([str(file)]) == 1
    assert "decided" in capsys.readouterr().err


def test_every_way_to_change_a_snapshot_is_written_down() -> None:
    asks = {
        "touch", "copy", "least", "size", "scale", "seen_speeds", "totals", "contentions", "variants", "amounts", "eligible",
        "possible", "preferred", "together", "row_names", "row", "remembered", "named", "holding",
        "memory_part",
    }  # fmt: skip
    methods = {
        name for name in vars(Snapshot) if not name.startswith("_") and callable(getattr(Snapshot, name))
    }
    assert methods - asks - {"totals"} == set(CALLS)
