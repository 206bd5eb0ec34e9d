"""The exported history is what the simulator reads: nothing is lost on the way, and nothing secret goes along."""

import io
import json
from pathlib import Path

import pytest

from aios.cli.history import _write_lines, _write_table, entry
from aios.common.v1 import resources_pb2
from aios.scheduler.v1 import history_pb2, job_pb2
from services.scheduler.simulate import cluster, metrics
from services.scheduler.simulate.policies import POLICIES
from services.scheduler.simulate.traces import TraceJob, read
from services.scheduler.simulate.world import Rules, World


def ended(
    name: str, came: int, *runs: tuple[int, int], gpus: int = 1, **more: object
) -> history_pb2.JobHistory:
    job = history_pb2.JobHistory(
        job=f"projects/p/jobs/{name}",
        queue="queues/lab",
        kind=job_pb2.JobSpec.KIND_BATCH,
        state=job_pb2.Job.STATE_SUCCEEDED,
        resources=resources_pb2.Resources(cpu_millis=1500, memory_bytes=2**30, accelerators={"gpu/A": gpus}),
        granted=resources_pb2.Resources(accelerators={"gpu/A": gpus}),
        priority=3,
        weight=2.0,
        **more,  # type: ignore[arg-type]
    )
    job.create_time.FromSeconds(came)
    for number, (start, stop) in enumerate(runs):
        attempt = job.attempts.add(epoch=number + 1)
        attempt.end_reason = "PREEMPTED" if number < len(runs) - 1 else ""
        attempt.assign_time.FromSeconds(start)
        attempt.end_time.FromSeconds(stop)
        job.end_time.FromSeconds(stop)
    return job


JOBS = [
    ended("one", 1000, (1010, 1100)),
    ended("two", 1005, (1020, 1060), (1200, 1260), gpus=2),
    ended("still waiting", 1010),
    ended("served", 1011, (1012, 1015)),
]
JOBS[-1].kind = job_pb2.JobSpec.KIND_SERVICE


def exported(folder: Path, form: str) -> list[TraceJob]:
    file, text = folder / f"history.{form}", io.StringIO()
    (_write_table if form == "csv" else _write_lines)(map(entry, JOBS), text)
    file.write_text(text.getvalue())
    return read(file)


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_what_is_exported_is_read_as_it_was(tmp_path: Path, form: str) -> None:
    one, two = exported(tmp_path, form)
    assert (one.name, one.queue, one.priority, one.weight) == ("p/one", "lab", 3, 2.0)
    assert (one.arrival, two.arrival) == (0.0, 5.0)
    assert (one.seconds("gpu/A"), two.seconds("gpu/A")) == (90.0, 100.0)
    assert two.replica == {"cpu": 1500, "memory": 2**30, "gpu/A": 2}


def test_both_forms_simulate_alike(tmp_path: Path) -> None:
    nodes = cluster.parse("1x2:A/cpu=2/memory=4GiB")
    found = [
        metrics.figures(World(exported(tmp_path, form), nodes, POLICIES["fcfs"].make(60.0), Rules()).run())
        for form in ("jsonl", "csv")
    ]
    assert found[0] == found[1]
    # The second needs more processors than the first leaves.
    assert found[0].makespan == 190.0


def test_attempts_and_preemptions_are_counted() -> None:
    assert (entry(JOBS[1])["attempts"], entry(JOBS[1])["preemptions"]) == (2, 1)


def test_no_command_and_no_environment_is_exported() -> None:
    names = {field.name for field in history_pb2.JobHistory.DESCRIPTOR.fields}
    assert not names & {"spec", "command", "environment"}
    assert "command" not in json.dumps(entry(JOBS[0]))


def test_a_pool_without_accelerators_is_measured_by_its_processors() -> None:
    nodes = cluster.parse("2x0/cpu=4/memory=8GiB", ["memory"])
    assert [dict(node.capacity) for node in nodes] == [{"cpu": 4000, "memory": 8 * 2**30}] * 2
    assert cluster.devices(nodes) == 8
    jobs = [TraceJob(f"j{n}", 0.0, 100.0, {"": 1.0}, {"cpu": 4000}) for n in range(4)]
    outcome = World(jobs, nodes, POLICIES["srtf"].make(60.0), Rules()).run()
    assert (metrics.figures(outcome).makespan, metrics.figures(outcome).utilisation) == (200.0, 1.0)
    with pytest.raises(ValueError, match="is not cpu=CORES"):
        cluster.parse("2x0/disk=3")
