"""Shares of one device: where they go, what they leave, and who may have the rest."""

import pytest

from services.scheduler.engine.model import Job, Node, Placement, Queue
from services.scheduler.engine.plan import Policy, plan
from services.scheduler.engine.snapshot import Snapshot, filled
from services.scheduler.usage import usages

GIB = 2**30
POLICY = Policy("fcfs")


def pool(*devices: int, queues: tuple[Queue, ...] = (), memory: int = 16 * GIB) -> Snapshot:
    return filled(
        [
            Node(f"n{n}", {"cpu": 64_000, "gpu/A": each}, device_memory={"gpu/A": memory})
            for n, each in enumerate(devices)
        ],
        queues,
    )


def submit(snapshot: Snapshot, gpus: float, memory: int = 0, queue: str = "", **more: float) -> str:
    number = len(snapshot.jobs) + len(snapshot.holdings)
    name = f"j{number}"
    job = Job(name, number, 0.0, {"cpu": 1000, "gpu": gpus}, queue=queue, device_memory=memory, **more)  # type: ignore[arg-type]
    snapshot.add(job)
    return name


def step(snapshot: Snapshot, now: float = 1.0) -> dict[str, Placement]:
    """What starts, carried out."""
    decided = plan(snapshot, POLICY, now)
    for start in decided.starts:
        snapshot.start(start.job, start.placement, now)
    return {start.job: start.placement for start in decided.starts}


def test_shares_fill_a_device_before_another_is_shared() -> None:
    snapshot = pool(2, 2)
    for gpus in (0.5, 0.25, 0.25, 0.5):
        submit(snapshot, gpus)
    started = step(snapshot)
    where = [(each.nodes[0][0], each.device) for each in started.values()]
    assert len(where) == 4
    assert len(set(where)) == 2
    assert where[0] == where[1] == where[2] != where[3]
    submit(snapshot, 2)
    assert len(step(snapshot)) == 1, "the other node has both of its devices whole"


def test_a_share_goes_where_it_fits_tightest() -> None:
    snapshot = pool(2)
    for gpus in (0.75, 0.5):
        submit(snapshot, gpus)
    first, second = step(snapshot).values()
    assert first.device != second.device
    submit(snapshot, 0.25)
    assert step(snapshot).popitem()[1].device == first.device


def test_a_whole_device_is_one_that_nobody_shares() -> None:
    snapshot = pool(2)
    shares = [submit(snapshot, 0.75), submit(snapshot, 0.75)]
    assert len(step(snapshot)) == 2
    whole = submit(snapshot, 1)
    assert not step(snapshot), "half a device is free twice, and no whole one"
    snapshot.remove(shares[0], 2.0)
    assert set(step(snapshot, 3.0)) == {whole}


def test_memory_of_a_device_bounds_who_shares_it() -> None:
    snapshot = pool(1)
    submit(snapshot, 0.25, 12 * GIB)
    assert len(step(snapshot)) == 1
    four, one = submit(snapshot, 0.25, 4 * GIB), submit(snapshot, 0.25, 1 * GIB)
    assert set(step(snapshot)) == {four}
    snapshot.remove(four, 2.0)
    assert set(step(snapshot, 3.0)) == {one}


@pytest.mark.parametrize("memory", [17 * GIB, 1])
def test_memory_that_no_device_is_known_to_have_is_not_given(memory: int) -> None:
    snapshot = pool(1, memory=16 * GIB if memory > 1 else 0)
    submit(snapshot, 0.5, memory)
    assert not step(snapshot)


def test_half_a_device_counts_half() -> None:
    snapshot = pool(4, queues=(Queue("a", limit={"gpu": 1.5}),))
    for _ in range(4):
        submit(snapshot, 0.5, queue="a")
    assert len(step(snapshot)) == 3, "a queue that may use 1.5"
    used = usages(snapshot, 1.0)["a"]
    assert (used.used["gpu/A"], used.pending, used.share) == (1.5, {"cpu": 1000, "gpu": 0.5}, 1.5 / 4)
    snapshot.touch(0, 11.0)
    assert snapshot.attained[snapshot.slots["j0"]] == pytest.approx(5.0), "device-seconds"


def test_small_shares_do_not_starve_who_waits_for_a_whole_device() -> None:
    snapshot, now = pool(1), 1.0
    submit(snapshot, 0.5, estimate=100.0)
    step(snapshot, now)
    whole = submit(snapshot, 1)
    for number in range(20):
        submit(snapshot, 0.25, estimate=1000.0)
        now += 10.0
        started = step(snapshot, now)
        assert not started or set(started) == {whole}
        if number == 10:
            snapshot.remove("j0", now)
    assert snapshot.slots[whole] in snapshot.holdings


def test_a_job_that_is_stopped_gives_its_share_back() -> None:
    snapshot = pool(1)
    one = submit(snapshot, 0.5)
    step(snapshot)
    snapshot.wait(one, 2.0)
    assert not snapshot.parts
    assert snapshot.named(snapshot.free[0])["gpu/A"] == 1
