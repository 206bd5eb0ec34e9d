"""What `balanced` owes: nobody waits without bound, and what is owed never takes the whole pool."""

import numpy as np

from services.scheduler.engine import balanced as rules
from services.scheduler.engine.balanced import FAIR_SHARE, OWED_SHARE, PATIENCE_SECONDS, balanced
from services.scheduler.engine.model import Job, Node, Placement, Queue
from services.scheduler.engine.plan import Policy, plan
from services.scheduler.engine.snapshot import Snapshot, filled

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
    tiers = rules._owed(snapshot, live, np.full(len(live), -1.0), now)
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
