"""Queues of the engine: what is lent, what is kept, who gives back first, and what was used lately."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.scheduler.engine.fair import fair
from services.scheduler.engine.model import Job, Node, Plan, Queue
from services.scheduler.engine.order import fcfs
from services.scheduler.engine.plan import Policy, plan
from services.scheduler.engine.recent import Recent, part
from services.scheduler.engine.snapshot import Snapshot, filled

FCFS = Policy("fcfs", fcfs)
FAIR = Policy("fair", fair, preempt=True)


def pool(gpus: int, *queues: Queue, more: dict[str, int] | None = None) -> Snapshot:
    return filled([Node("n", {"cpu": 1000, "gpu/A": gpus} | (more or {}))], queues)


def submit(snapshot: Snapshot, queue: str, gpus: int = 1, kind: str = "gpu", **more: object) -> str:
    number = len(snapshot.names) and snapshot.slots.__len__()
    name = f"{queue}{number}"
    snapshot.add(Job(name, number, 0.0, {"cpu": 1, kind: gpus}, queue=queue, **more))  # type: ignore[arg-type]
    return name


def carry_out(snapshot: Snapshot, decided: Plan, now: float) -> list[str]:
    for name in decided.stops:
        snapshot.wait(name, now)
    for start in decided.starts:
        snapshot.start(start.job, start.placement, now)
    return [start.job for start in decided.starts]


def test_what_a_queue_lends_to_nobody_stays_free_for_it() -> None:
    snapshot = pool(4, Queue("a", nominal={"gpu/A": 3}, lending={"gpu/A": 1}), Queue("b"))
    others = [submit(snapshot, "b") for _ in range(4)]
    assert carry_out(snapshot, plan(snapshot, FCFS, 1.0), 1.0) == others[:2]
    own = [submit(snapshot, "a") for _ in range(3)]
    assert carry_out(snapshot, plan(snapshot, FCFS, 2.0), 2.0) == own[:2]


def test_what_is_kept_for_a_queue_serves_those_under_it_alone() -> None:
    top = Queue("a", nominal={"gpu/A": 2}, lending={"gpu/A": 0})
    snapshot = pool(3, top, Queue("under", "a", nominal={"gpu/A": 1}, lending={"gpu/A": 0}), Queue("b"))
    started = [submit(snapshot, "b"), submit(snapshot, "under")]
    submit(snapshot, "b")
    started.append(submit(snapshot, "under"))
    assert carry_out(snapshot, plan(snapshot, FCFS, 1.0), 1.0) == started


def test_a_limit_on_a_family_counts_all_its_types() -> None:
    snapshot = pool(4, Queue("b", limit={"gpu": 3}), more={"gpu/B": 4})
    first = [submit(snapshot, "b", 2, "gpu/A"), submit(snapshot, "b", 1, "gpu/B")]
    submit(snapshot, "b", 1)
    other = submit(snapshot, "c", 1)
    assert carry_out(snapshot, plan(snapshot, FCFS, 1.0), 1.0) == [*first, other]


def test_a_limit_on_one_type_stops_nobody_else_of_that_shape() -> None:
    snapshot = pool(1, Queue("b", limit={"gpu/B": 0}), more={"gpu/B": 1})
    first = submit(snapshot, "b", 1)
    submit(snapshot, "b", 1)
    other = submit(snapshot, "c", 1)
    assert carry_out(snapshot, plan(snapshot, FCFS, 1.0), 1.0) == [first, other]


def test_lent_quota_is_taken_back_from_whoever_borrows_most() -> None:
    snapshot = pool(8, Queue("a", nominal={"gpu/A": 2}), Queue("b", nominal={"gpu/A": 2}), Queue("c"))
    for queue, count in (("b", 4), ("c", 4)):
        for _ in range(count):
            submit(snapshot, queue)
    assert len(carry_out(snapshot, plan(snapshot, FAIR, 1.0), 1.0)) == 8
    mine = [submit(snapshot, "a") for _ in range(2)]
    decided = plan(snapshot, FAIR, 100.0)
    # b borrows two of its four, c all four: c gives back both.
    assert {name[0] for name in decided.stops} == {"c"}
    assert carry_out(snapshot, decided, 100.0) == mine


def test_nothing_is_stopped_for_a_job_that_then_finds_no_place() -> None:
    snapshot = filled([Node(name, {"cpu": 10, "gpu/A": 2}) for name in "xy"], [Queue("a"), Queue("b")])
    fixed = [submit(snapshot, "b", 1, preemptible=False, selector={}) for _ in range(2)]
    for name, node in zip(fixed, "xy", strict=True):
        spot = plan(snapshot, FCFS, 0.0).starts[0].placement
        snapshot.start(name, type(spot)(((node, 1),), "gpu/A"), 0.0)
    for _ in range(2):
        submit(snapshot, "b")
    carry_out(snapshot, plan(snapshot, FCFS, 0.0), 0.0)
    # Two devices could be freed, but not on one node.
    submit(snapshot, "a", 2)
    assert plan(snapshot, FAIR, 100.0).stops == ()


def test_who_used_more_lately_comes_later_and_is_forgiven_in_time() -> None:
    def starts(after: float) -> str:
        """Queues of the first jobs to start, some time after a alone used the pool."""
        snapshot = pool(4, Queue("a"), Queue("b"))
        snapshot.recent.half_life = 100.0
        name = submit(snapshot, "a", 4)
        carry_out(snapshot, plan(snapshot, FCFS, 0.0), 0.0)
        snapshot.remove(name, 500.0)
        for queue in "aaaabbbb":
            submit(snapshot, queue)
        now = 500.0 + after
        return "".join(name[0] for name in carry_out(snapshot, plan(snapshot, FAIR, now), now))

    assert starts(0.0) == "bbbb"
    assert starts(150.0) == "bbab"
    assert sorted(starts(10_000.0)) == ["a", "a", "b", "b"]


def test_what_is_its_own_a_queue_gets_whatever_it_used_before() -> None:
    snapshot = pool(2, Queue("a", nominal={"gpu/A": 1}), Queue("b"))
    snapshot.recent.half_life = 100.0
    old = [submit(snapshot, "a") for _ in range(2)]
    carry_out(snapshot, plan(snapshot, FCFS, 0.0), 0.0)
    for name in old:
        snapshot.remove(name, 1000.0)
    for queue in "bbaa":
        submit(snapshot, queue)
    assert [name[0] for name in carry_out(snapshot, plan(snapshot, FAIR, 1000.0), 1000.0)] == ["a", "b"]


def test_recent_use_is_the_same_told_at_once_or_bit_by_bit() -> None:
    recent = Recent()
    recent.half_life = 60.0
    recent.change(1, np.array([4, 2]), 100.0)
    for moment in (110.0, 130.0, 200.0):
        recent.mean(moment, 2, 2)
    recent.change(1, np.array([-4, -2]), 250.0)
    found = recent.mean(300.0, 2, 3)
    assert found[1].tolist() == pytest.approx([4 * part(100, 250, 300, 60), 2 * part(100, 250, 300, 60), 0.0])
    assert not found[0].any()


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 3)), max_size=12),
    st.integers(0, 4),
    st.integers(0, 4),
    st.sampled_from([FCFS, FAIR, Policy("fair", fair)]),
)
def test_the_own_share_of_a_queue_is_there_whenever_it_asks(
    jobs: list[tuple[str, int]], own: int, lent: int, policy: Policy
) -> None:
    queues = [Queue("a", nominal={"gpu/A": own}, lending={"gpu/A": min(own, lent)}), Queue("c", "a")]
    snapshot = pool(6, *queues)
    for queue, gpus in jobs:
        submit(snapshot, queue, gpus)
    carry_out(snapshot, plan(snapshot, policy, 1.0), 1.0)
    used = dict.fromkeys("abc", 0)
    for slot in snapshot.holdings:
        used[snapshot.queue_names[snapshot.queue[slot]]] += int(
            snapshot.named(snapshot.holds[slot]).get("gpu/A", 0)
        )
    kept = max(0, own - min(own, lent) - used["a"] - used["c"])
    assert sum(used.values()) + kept <= 6
