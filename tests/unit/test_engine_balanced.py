"""What `balanced` owes: nobody waits without bound, and what is owed never takes the whole pool."""

import numpy as np
import pytest

from services.scheduler.engine import balanced as rules
from services.scheduler.engine.balanced import FAIR_SHARE, OWED_SHARE, PATIENCE_SECONDS, balanced
from services.scheduler.engine.model import Job, Node, Placement, Queue
from services.scheduler.engine.plan import Policy, plan
from services.scheduler.engine.snapshot import Snapshot, filled
from services.scheduler.engine.types import balanced_shares, tells_types_apart
from services.scheduler.policies import ROUND_SECONDS, compose
from services.scheduler.policies import Policy as Chosen

DEVICES = 30
OLD = 3 * DEVICES
"""Jobs that have waited for long: none of them alone takes about as long as all together."""
LATER = PATIENCE_SECONDS + 3600
POLICY = Policy("balanced", balanced, preempt=True)


def test_who_has_waited_beyond_patience_takes_its_part_of_the_pool_and_no_more() -> None:
    snapshot = pool()
    for number in range(OLD):
        snapshot.add(job(number, hours=1000))
    for number in range(OLD, OLD + DEVICES):
        snapshot.add(job(number, hours=1, submitted=LATER))

    started = [start.job for start in plan(snapshot, POLICY, LATER).starts]

    owed = round(OWED_SHARE * DEVICES)
    assert started[:owed] == [f"j{number}" for number in range(owed)], "longest ago first"
    assert all(int(name[1:]) >= OLD for name in started[owed:]), "the rest by size"
    assert len(started) == DEVICES


def test_fair_finishes_take_their_part_and_what_runs_for_them_counts() -> None:
    snapshot = pool()
    for number in range(DEVICES):
        snapshot.add(job(number, hours=10))
        snapshot.start(f"j{number}", Placement((("n", 1),), "gpu/A"), 0.0)
    now = 200 * 3600.0
    for number in range(DEVICES, 2 * DEVICES):
        snapshot.add(job(number, hours=0.01, submitted=now))
    live = np.array(sorted(snapshot.slots.values()))
    tiers = rules.owed(snapshot, live, np.full(len(live), -1.0), now)
    assert np.count_nonzero(tiers == rules.FAIR) == round(FAIR_SHARE * DEVICES)


def test_what_cannot_run_keeps_nothing_from_others() -> None:
    snapshot = pool()
    snapshot.put_queue(Queue("small", limit={"gpu/A": 1}))
    for number in range(DEVICES):
        snapshot.add(job(number, hours=1000, queue="small"))
    for number in range(DEVICES, 2 * DEVICES):
        snapshot.add(job(number, hours=1000, replica={"gpu/B": 1}))
    for number in range(2 * DEVICES, 2 * DEVICES + OLD):
        snapshot.add(job(number, hours=1000))

    started = [start.job for start in plan(snapshot, POLICY, LATER).starts]

    owed = round(OWED_SHARE * DEVICES)
    expected = [0, *range(2 * DEVICES, 2 * DEVICES + owed - 1)]
    assert started[:owed] == [f"j{number}" for number in expected]


def test_a_gang_larger_than_the_part_is_not_left_out() -> None:
    snapshot = pool()
    snapshot.add(job(0, hours=1000, replicas=DEVICES))
    for number in range(1, DEVICES):
        snapshot.add(job(number, hours=1, submitted=LATER))
    assert [start.job for start in plan(snapshot, POLICY, LATER).starts] == ["j0"]


def test_with_several_types_each_goes_where_it_gains_most_and_moves_there_when_it_can() -> None:
    decide = compose(Chosen("balanced"))
    snapshot = filled([Node("slow", {"cpu": 8, "gpu/A": 1}), Node("fast", {"cpu": 8, "gpu/B": 1})])
    # Both are faster on B, one of them much more so; the other one came first.
    snapshot.add(told(0, {"gpu/A": 2.0, "gpu/B": 3.0}))
    snapshot.add(told(1, {"gpu/A": 1.0, "gpu/B": 9.0}, work=9e4))
    for start in decide(snapshot, 0.0, True).starts:
        snapshot.start(start.job, start.placement, 0.0)
    placed = {snapshot.names[slot]: held.placement.kind for slot, held in snapshot.holdings.items()}
    assert placed == {"j0": "gpu/A", "j1": "gpu/B"}
    now = 2 * ROUND_SECONDS
    snapshot.remove("j1", now)
    decided = decide(snapshot, now, True)
    assert [(start.job, start.placement.kind) for start in decided.starts] == [("j0", "gpu/B")]


def test_over_several_types_who_ends_last_and_who_is_owed_are_not_left_out() -> None:
    """Of eight short jobs and a long one, where shortest first would leave the long one to the end."""
    snapshot = filled([Node("slow", {"cpu": 8, "gpu/A": 1}), Node("fast", {"cpu": 8, "gpu/B": 1})])
    for number in range(8):
        snapshot.add(told(number, {"gpu/A": 1.0, "gpu/B": 2.0}, work=1000.0))
    snapshot.add(told(8, {"gpu/A": 1.0, "gpu/B": 2.0}, work=1e5))
    slots = np.arange(9)
    last = balanced_shares(snapshot, slots, 0.0)[8]
    assert last @ [0, 1] > 0.9
    for number in range(9):
        snapshot.remove(f"j{number}")
    for number in range(9, 40):
        snapshot.add(told(number, {"gpu/A": 1.0, "gpu/B": 2.0}, work=1e4, submitted=LATER))
    snapshot.add(told(40, {"gpu/A": 1.0, "gpu/B": 2.0}, work=2e4))
    slots = np.array([snapshot.slots[name] for name in snapshot.jobs])
    waits = balanced_shares(snapshot, slots, LATER)[-1]
    assert waits.sum() > 0.3, "it has waited for as long as anybody may"


@pytest.mark.parametrize("known", [{"gpu/A": 1.0}, {}])
def test_one_type_or_unknown_speeds_are_ranked(known: dict[str, float]) -> None:
    snapshot = filled([Node("slow", {"cpu": 8, "gpu/A": 1}), Node("fast", {"cpu": 8, "gpu/B": 1})])
    snapshot.add(told(0, known))
    assert not tells_types_apart(snapshot)
    snapshot.add(told(1, {"gpu/A": 1.0, "gpu/B": 1.0}))
    assert tells_types_apart(snapshot)
    snapshot.remove_node("fast")
    assert not tells_types_apart(snapshot)


def told(number: int, speeds: dict[str, float], work: float = 1e4, submitted: float = 0.0) -> Job:
    """A job that says how fast it is."""
    return Job(f"j{number}", number, submitted, {"cpu": 1, "gpu": 1}, speeds=speeds, work=work)


def pool() -> Snapshot:
    return filled([Node("n", {"gpu/A": DEVICES})])


def job(
    number: int,
    *,
    hours: float,
    submitted: float = 0.0,
    queue: str = "",
    replica: dict[str, int] | None = None,
    replicas: int = 1,
) -> Job:
    return Job(
        f"j{number}",
        number,
        submitted,
        replica or {"gpu": 1},
        replicas,
        queue=queue,
        estimate=3600 * hours,
    )
