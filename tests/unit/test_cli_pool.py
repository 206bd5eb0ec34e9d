"""What people see of the pool: bars, the tree of queues, explanations as lines."""

from datetime import UTC, datetime, timedelta

from aios.cli import bars
from aios.cli.explain import lines
from aios.cli.queue import tree_rows
from aios.cli.top import nodes
from aios.common.v1 import resources_pb2
from aios.scheduler.v1 import explanation_pb2, node_pb2, queue_pb2


def gpus(count: int, kind: str = "gpu/A") -> resources_pb2.Resources:
    return resources_pb2.Resources(accelerators={kind: count})


def test_a_bar_shows_what_is_used_what_is_owed_and_what_is_left() -> None:
    assert bars.bar(0.5, cells=4) == "██··"
    assert bars.bar(0.25, 0.75, cells=4) == "█░░·"
    assert bars.bar(1.5, cells=4) == "████"
    assert bars.bar(0.0001, cells=4) == "▏···", "the least use shows"
    assert bars.bar(0.0, cells=4) == "····"


def test_the_tree_of_queues_has_a_line_for_each_resource() -> None:
    queues = [
        queue_pb2.Queue(name="queues/lab", weight=2, nominal=gpus(4, "gpu")),
        queue_pb2.Queue(
            name="queues/vision",
            parent="queues/lab",
            weight=1,
            usage=queue_pb2.QueueUsage(used=gpus(2), pending=gpus(1, "gpu"), running_jobs=2, pending_jobs=1),
        ),
        queue_pb2.Queue(name="queues/idle", parent="queues/unseen", weight=1),
    ]
    rows = list(tree_rows(queues, {"gpu/A": 8}))
    assert [row[0] for row in rows] == ["lab", "└─ vision", "   ", "idle"]
    assert rows[0][3:7] == ("gpu", "░░░░░░░░░░··········", "0", "4")
    assert rows[1][1:6] == ("1", "2/1", "gpu/A", "█████···············", "2")


def test_a_node_has_a_line_for_each_resource() -> None:
    capacity = resources_pb2.Resources(cpu_millis=4000, accelerators={"gpu/A": 2})
    node = node_pb2.Node(
        name="nodes/a", state=node_pb2.Node.STATE_READY, capacity=capacity, allocated=gpus(1)
    )
    assert [row[:3] + row[4:6] for row in nodes([node])] == [
        ("a", "ready", "gpu/A", "1", "2"),
        ("", "", "cpu", "0", "4"),
    ]


def test_an_explanation_reads_as_lines() -> None:
    found = explanation_pb2.Explanation(
        job="projects/p/jobs/j",
        reason="WAITS_FOR_ACCELERATOR",
        message="waits for 2 gpu/A",
        holders=[
            explanation_pb2.Holder(job="projects/p/jobs/k", jobs=1, held=gpus(2)),
            explanation_pb2.Holder(jobs=3, held=gpus(6)),
        ],
        alternatives=[
            explanation_pb2.Alternative(
                code="FEWER_RESOURCES", message="starts now with 1 gpu/A instead of 2"
            )
        ],
        attempts=2,
        preemptions=1,
    )
    found.prediction.start_time.FromDatetime(datetime.now(UTC) + timedelta(minutes=10, seconds=5))
    found.prediction.earliest_time.FromDatetime(datetime.now(UTC) + timedelta(minutes=5, seconds=5))
    found.prediction.basis = "HISTORY"
    told = lines(found)
    assert told[3:5] == [("held by", "k: gpu/A:2"), ("", "others (3 jobs): gpu/A:6")]
    starts = dict(told)["starts"]
    assert "(in 10m), likely between" in starts
    assert starts.endswith("and nobody knows when; by how long earlier jobs took")
    assert dict(told)["so far"] == "2 attempts, 1 stopped for others"
