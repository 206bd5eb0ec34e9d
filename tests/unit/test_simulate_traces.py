"""Traces: every format comes out as the same kind of job, and what is wrong with a file is said."""

import gzip
import json
from itertools import islice, pairwise
from pathlib import Path

import pytest

from services.scheduler.simulate.traces import ANY, Phase, TraceInvalid, TraceJob, read

TRACES = Path(__file__).parents[2] / "bench" / "traces"


def test_gavels_jobs_have_a_speed_for_each_type() -> None:
    jobs = read(TRACES / "gavel" / "continuous.trace")
    assert len(jobs) == 96
    assert jobs[0].replicas == 4
    assert jobs[0].steps == 925_982
    assert jobs[0].seconds("gpu/v100") == pytest.approx(13_237.67, rel=1e-4)
    assert jobs[0].seconds("gpu/k80") == pytest.approx(132_629.88, rel=1e-4)
    assert jobs[0].exclusive == jobs[0].seconds("gpu/v100")
    assert jobs[-1].arrival == 46_317


def test_shockwaves_jobs_change_speed_as_they_go_on() -> None:
    jobs = read(TRACES / "shockwave" / "dynamic120.trace")
    assert len(jobs) == 120
    first = jobs[0]
    assert first.steps == 23
    assert [phase.steps for phase in first.phases] == [10, 10, 3]
    assert first.seconds() == pytest.approx(10 * 62.88 + 10 * 43.8475 + 3 * 31.865)
    assert first.exclusive == pytest.approx(1_224.797)
    work = sum(job.exclusive * job.replicas for job in jobs)
    assert work / 32 == pytest.approx(19_869, abs=1)


def test_a_dynamic_trace_without_phases_has_the_duration_that_it_names(tmp_path: Path) -> None:
    file = tmp_path / "one.trace"
    file.write_text("LM\tcmd\tdir\t--steps\t1\t1000\t2\tgns\t3\t-1.0\t500\t7\n")
    (job,) = read(file)
    assert (job.arrival, job.replicas, job.weight) == (0, 2, 3)
    assert job.seconds() == 500


def test_phillys_jobs_come_in_order_of_arrival(tmp_path: Path) -> None:
    file = tmp_path / "philly.csv.gz"
    with gzip.open(TRACES / "philly" / "philly.csv.gz", "rt") as whole, gzip.open(file, "wt") as part:
        part.writelines(islice(whole, 1_001))
    jobs = read(file)
    assert len(jobs) == 1_000
    assert jobs[0].arrival == 0
    assert all(one.arrival <= other.arrival for one, other in pairwise(jobs))
    assert len({job.queue for job in jobs}) > 1
    assert max(job.replicas for job in jobs) > 1


def test_a_plain_table_needs_arrival_and_duration_only(tmp_path: Path) -> None:
    file = tmp_path / "plain.csv"
    file.write_text("arrival,duration\n10,5\n4,8\n")
    assert read(file) == [
        TraceJob("1", 0.0, 8.0, {ANY: 1.0}),
        TraceJob("0", 6.0, 5.0, {ANY: 1.0}),
    ]


def test_a_plain_table_may_say_more(tmp_path: Path) -> None:
    file = tmp_path / "plain.csv.gz"
    with gzip.open(file, "wt") as out:
        out.write("name,arrival,duration,gpus,queue,priority,weight\na,0,60,4,research,2,1.5\n")
    (job,) = read(file)
    assert (job.name, job.replicas, job.queue, job.priority, job.weight) == ("a", 4, "research", 2, 1.5)


def test_a_plain_table_may_name_labels(tmp_path: Path) -> None:
    file = tmp_path / "plain.csv"
    file.write_text("arrival,duration,selector,prefers,tolerates\n0,60,zone=a; disk=ssd,rack=r1,for=\n")
    (job,) = read(file)
    assert (job.selector, job.prefers, job.tolerates) == (
        {"zone": "a", "disk": "ssd"},
        {"rack": "r1"},
        {"for": ""},
    )


def test_a_plain_table_may_say_how_near_a_gang_is(tmp_path: Path) -> None:
    file = tmp_path / "plain.csv"
    file.write_text("arrival,duration,gpus,topology\n0,60,4,rack\n0,60,4,rack?\n0,60,4,\n")
    assert [(job.together, job.strictly) for job in read(file)] == [
        ("rack", True),
        ("rack", False),
        ("", False),
    ]


def test_our_own_history_says_when_a_job_ran(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    entries = [
        {
            "name": "train",
            "queue": "team",
            "submit": 100.0,
            "runs": [[110, 160], [200, 250]],
            "end": 250,
            "replica": {"gpu/h100": 2, "cpu": 4000},
            "replicas": 2,
            "work": 1000,
            "kind": "gpu/h100",
        },
        {"name": "still running", "submit": 120.0, "runs": [[130, 140]], "end": None},
    ]
    file.write_text("\n".join(json.dumps(entry) for entry in entries))
    (job,) = read(file)
    assert job.seconds("gpu/h100") == 100
    assert (job.steps, job.replicas, job.replica) == (1000, 2, {"gpu/h100": 2, "cpu": 4000})


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.txt", "x", "ends in"),
        ("a.csv", "", "no jobs"),
        ("a.csv", "start,length\n1,2\n", "neither arrival"),
        ("a.csv", "arrival,duration\n1,soon\n", "soon"),
        ("a.csv", "arrival,duration,gpus\n1,2,0\n", "fewer than 1 GPU"),
        ("a.csv", "arrival,duration\n1,-2\n", "below 0"),
        ("a.trace", "LM\tx\n", "2 columns"),
        ("a.trace", "LM\tc\td\ts\t1\t10\t1\t1\t-1\t0\n", "throughputs.csv"),
        ("a.jsonl", "{", "JSONDecodeError"),
        ("a.jsonl", '{"end": 3, "runs": [[5, 1]], "name": "x", "submit": 0}\n', "ran -4"),
    ],
)
def test_what_is_wrong_with_a_trace_is_said(tmp_path: Path, name: str, text: str, words: str) -> None:
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(TraceInvalid, match="a\\.") as caught:
        read(file)
    assert words in str(caught.value)


def test_phases_make_a_jobs_time() -> None:
    job = TraceJob("a", 0, 30, {ANY: 2.0}, phases=(Phase(10, 1.0), Phase(20, 2.0)))
    assert job.seconds() == 10


def test_gpus_may_be_a_share_of_one(tmp_path: Path) -> None:
    table, history = tmp_path / "a.csv", tmp_path / "b.jsonl"
    table.write_text("arrival,duration,gpus,type\n0,10,0.5,gpu/A\n")
    entry = {"name": "j", "submit": 0, "runs": [[0, 10]], "end": 10, "replica": {"cpu": 1000, "gpu": 0.25}}
    history.write_text(json.dumps(entry) + "\n")
    assert [(dict(job.replica), job.replicas) for file in (table, history) for job in read(file)] == [
        ({"gpu/A": 0.5}, 1),
        ({"cpu": 1000, "gpu": 0.25}, 1),
    ]
