"""The engine through a random life of a pool: jobs, nodes, queues and policies come and go in any order.

`make stateful STEPS=1000000` goes on for longer, and where it was stopped goes on from there as long as nothing of the
engine changes; the suite takes a slice.
"""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from hashlib import sha256
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from services.scheduler import policies
from services.scheduler.engine import model
from services.scheduler.engine.model import ROOT, RUNNING, WAITING, Job, Node, Placement, Plan, Queue
from services.scheduler.engine.order import AGEING_PER_HOUR, known
from services.scheduler.engine.plan import Decide, startable
from services.scheduler.engine.snapshot import Snapshot, per_unit
from services.scheduler.policies import ALGORITHMS, ELASTIC, Policy, compose

STEPS = int(os.environ.get("AIOS_TEST_STEPS", "1500"))
STEPS_EACH = 50
STEPS_AT_ONCE = 20_000
"""It remembers what it has tried, and memory is finite."""
TALLY = Path(__file__).parents[2] / "build" / "stateful.json"
QUANTUM = timedelta(seconds=60)
SPARES = {
    "balanced",
    "srtf",
    "edf",
    "proportional",
    "utility",
    "max-min",
    "makespan",
    "finish-time-fair",
    "soonest",
    "dynamic",
}
DRAIN_ROUNDS = 60
PLANS = 3
"""In a row, as time passes: much of what policies do is taking turns."""
NODES = [f"n{n}" for n in range(4)]
Amounts = dict[str, float]
PARENTS = {"a": ROOT, "b": ROOT, "c": "a", "d": "a"}

steps_made, decisions = Counter[str](), Counter[str]()
capacities = st.builds(
    lambda cpu, a, b: {"cpu": cpu, "gpu/A": a, "gpu/B": b},
    st.integers(1, 8),
    st.sampled_from([0, 2, 4]),
    st.sampled_from([0, 0, 4]),
)
replicas = st.builds(
    lambda cpu, kind, gpus: {"cpu": cpu} | ({kind: gpus} if gpus else {}),
    st.integers(1, 3),
    st.sampled_from(["gpu", "gpu/A", "gpu/B"]),
    st.sampled_from([0, 1, 2, 3, 0.25, 0.5, 0.75]),
)
DEVICE_MEMORY = {"gpu/A": 16, "gpu/B": 8}
some_limits = st.one_of(
    st.dictionaries(st.sampled_from(["cpu", "gpu/A", "gpu"]), st.integers(0, 6), max_size=2),
    st.just({"gpu": 1.5}),
)
limits: st.SearchStrategy[dict[str, float]] = st.one_of(st.just({}), st.just({}), some_limits)
some_taints = st.sampled_from([{}, {}, {}, {"for": "lab"}])
MOSTLY = st.sampled_from([True, True, True, False])


@dataclass
class Held:
    """What a job that runs holds, as this test remembers it."""

    placement: Placement
    need: Mapping[str, float]
    """Of one replica."""
    device_memory: float
    """Of the device that it shares."""
    since: float


class Life(RuleBasedStateMachine):
    """A pool's life. What the engine must keep to is recomputed here from what was done, not read from it."""

    def __init__(self) -> None:
        super().__init__()
        self.snapshot = Snapshot()
        self.now = 1e6
        self.jobs: dict[str, Job] = {}
        self.held: dict[str, Held] = {}
        self.stopping: set[str] = set()
        self.saves: dict[str, bool] = {}
        self.capacity: dict[str, dict[str, int]] = {}
        self.queues: dict[str, Queue] = {}
        self.number = 0
        self.policy = Policy()
        self.decide: Decide = compose(self.policy)
        for name in ("a", "b", "c", "d"):
            self.put_queue(name, {}, 1.0)
        for name in NODES:
            self.put_node(name, {"cpu": 8, "gpu/A": 4, "gpu/B": 0 if name == "n0" else 2}, "x", {})

    # What happens to a pool.

    @rule(name=st.sampled_from(NODES), capacity=capacities, zone=st.sampled_from("xy"), taints=some_taints)
    def put_node(self, name: str, capacity: dict[str, int], zone: str, taints: dict[str, str]) -> None:
        steps_made["put_node"] += 1
        self.snapshot.put_node(Node(name, capacity, {"zone": zone}, zone, taints, DEVICE_MEMORY))
        self.capacity[name] = capacity

    @precondition(lambda self: self.number % 4 == 1)
    @rule(data=st.data(), gone=st.booleans())
    def lose_node(self, data: st.DataObject, gone: bool) -> None:
        steps_made["lose_node"] += 1
        name = data.draw(st.sampled_from(sorted(self.capacity)))
        self.snapshot.remove_node(name)
        self.capacity[name] = dict.fromkeys(self.capacity[name], 0)
        if gone:
            for job in [job for job, held in self.held.items() if name in dict(held.placement.nodes)]:
                self.waits(job)

    @rule(name=st.sampled_from(sorted(PARENTS)), limit=limits, weight=st.sampled_from([1.0, 4.0]))
    def put_queue(self, name: str, limit: dict[str, float], weight: float) -> None:
        self.queues[name] = Queue(name, PARENTS[name], weight, limit=limit)
        self.snapshot.put_queue(self.queues[name])

    @rule(
        replica=replicas,
        count=st.sampled_from([1, 1, 1, 2, 3]),
        queue=st.sampled_from(["", *PARENTS]),
        priority=st.integers(0, 2),
        weight=st.sampled_from([1.0, 3.0]),
        preemptible=MOSTLY,
        saves=MOSTLY,
        selector=st.sampled_from([{}, {}, {"zone": "x"}]),
        prefers=st.sampled_from([{}, {}, {"zone": "y"}]),
        tolerates=st.sampled_from([{}, {"for": "lab"}, {"for": ""}, {"for": "others"}]),
        estimate=st.sampled_from([0.0, 0.0, 100.0, 5000.0]),
        min_runtime=st.sampled_from([0.0, 0.0, 300.0]),
        deadline=st.sampled_from([np.inf, 100.0]),
        least=st.sampled_from([0, 0, 1]),
        together=st.sampled_from(["", "", "zone", "node"]),
        strictly=st.booleans(),
        memory=st.sampled_from([0, 0, 3, 6, 12]),
    )
    def submit(
        self,
        replica: dict[str, float],
        count: int,
        queue: str,
        deadline: float,
        saves: bool,
        memory: int,
        **more: object,
    ) -> None:
        steps_made["submit"] += 1
        name = f"j{self.number}"
        if shares := any(amount < 1 for amount in replica.values()):
            count = 1
        job = Job(
            name,
            self.number,
            self.now,
            replica,
            count,
            queue=queue,
            device_memory=memory if shares else 0,
            deadline=self.now + deadline,
            saves=saves,
            **more,  # type: ignore[arg-type]
        )
        self.number += 1
        self.jobs[name], self.saves[name] = job, saves
        self.snapshot.add(job)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), steps=st.integers(0, 100), speed=st.sampled_from([0.5, 2.0]), saves=st.booleans())
    def report(self, data: st.DataObject, steps: int, speed: float, saves: bool) -> None:
        steps_made["report"] += 1
        name = data.draw(st.sampled_from(sorted(self.held)))
        self.snapshot.reported(name, done=steps, begun=0, work=100, restart=20.0, saves=saves)
        self.snapshot.measured(name, self.held[name].placement.kind, speed)
        self.saves[name] = saves

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        steps_made["end"] += 1
        self.ends(data.draw(st.sampled_from(sorted(self.held))))

    @precondition(lambda self: self.stopping)
    @rule(data=st.data())
    def stopped(self, data: st.DataObject) -> None:
        steps_made["stopped"] += 1
        self.waits(data.draw(st.sampled_from(sorted(self.stopping))))

    @precondition(lambda self: self.number % 3 == 0)
    @rule(algorithm=st.sampled_from(sorted(ALGORITHMS)), reservations=st.sampled_from([1, 8]))
    def choose_policy(self, algorithm: str, reservations: int) -> None:
        steps_made["choose_policy"] += 1
        self.policy = Policy(algorithm, QUANTUM, reservations)
        self.decide = compose(self.policy)

    @rule(seconds=st.sampled_from([0.0, 30.0, 400.0, 400.0, 4000.0]), preempt=MOSTLY)
    def plan(self, seconds: float, preempt: bool) -> None:
        for _ in range(PLANS):
            steps_made["plan"] += 1
            self.now += seconds
            self.carry_out(self.decide(self.snapshot, self.now, preempt), preempt)
            self.nothing_is_lost_or_made()

    # What the engine's decisions must keep to.

    def carry_out(self, decided: Plan, preempt: bool) -> None:
        names = [start.job for start in decided.starts]
        assert len({*names, *decided.stops}) == len(names) + len(decided.stops), "each job once"
        moved = [name for name in names if name in self.held]
        decisions.update(starts=len(names), stops=len(decided.stops), moves=len(moved))
        for name in (*decided.stops, *moved):
            self.check_stop(name, preempt)
        self.check_order(names, [*decided.stops, *moved])
        for name in (*decided.stops, *moved):
            if name in decided.stops and self.number % 2:
                self.snapshot.stopping(name)
                self.stopping.add(name)
            else:
                self.waits(name)
        before, starts = self.used(), decided.starts
        if self.stopping & set(decided.stops):
            starts = startable(self.snapshot, starts, self.now)
        for start in starts:
            self.check_start(start.job, start.placement)
            self.snapshot.start(start.job, start.placement, self.now)
            need, memory = (
                self.need(start.job, start.placement),
                self.device_memory(start.job, start.placement),
            )
            self.held[start.job] = Held(start.placement, need, memory, self.now)
        self.check_limits(before, {start.job for start in starts})

    def check_stop(self, name: str, preempt: bool) -> None:
        job = self.jobs[name]
        assert preempt
        assert ALGORITHMS[self.policy.algorithm].preempts
        assert name in self.held
        assert name not in self.stopping
        assert job.preemptible
        assert self.now - self.held[name].since >= max(job.min_runtime, QUANTUM.total_seconds())
        assert self.saves[name] or self.policy.algorithm not in SPARES

    def check_start(self, name: str, placement: Placement) -> None:
        job = self.jobs[name]
        if self.policy.algorithm == ELASTIC and job.least:
            assert min(job.least, job.replicas) <= placement.replicas <= job.replicas
        else:
            assert placement.replicas == job.replicas, "a gang runs whole"
        assert not job.strictly or len(self.places(job, [node for node, _ in placement.nodes])) == 1
        assert self.has_room(name, placement), "nothing is given twice"
        if placement.device:
            self.check_share(name, placement)
        for node, count in placement.nodes:
            assert count > 0
            found = self.snapshot.nodes[self.snapshot.node_rows[node]]
            assert found is not None
            assert self.may_use(job, found)
        if placement.kind:
            assert any(
                name == placement.kind or placement.kind.startswith(name + "/") for name in job.replica
            )

    def check_share(self, name: str, placement: Placement) -> None:
        """Of one device no more is given than there is of it and of its memory; one is opened only where none had room."""
        [(node, count)], kind, share = (
            placement.nodes,
            placement.kind,
            self.need(name, placement)[placement.kind],
        )
        memory = self.device_memory(name, placement)
        assert count == 1
        assert 0 < share < 1
        shared = self.shared(node, kind)
        share_used, memory_used = shared.get(placement.device, (0.0, 0.0))
        assert share_used + share <= 1
        assert memory_used + memory <= DEVICE_MEMORY[kind]
        decisions.update(joins=placement.device in shared, opens=placement.device not in shared)

    def check_limits(self, before: Mapping[str, Amounts], started: set[str]) -> None:
        """No queue goes beyond its limit by what was started; it may be beyond since the limit was lowered."""
        after = self.used()
        touched = {queue for name in started for queue in self.path(self.jobs[name].queue)}
        for queue in touched - {ROOT}:
            for resource, most in self.queues[queue].limit.items():
                used, was = after[queue][resource], before[queue][resource]
                assert used <= max(most, was), (queue, resource, used, was, most)

    def check_order(self, started: list[str], stopped: list[str]) -> None:
        """Among jobs that can take each other's place and whose ends nobody knows, those that come first start first."""
        if self.policy.algorithm not in ("fcfs", "priority") or stopped:
            return
        waiting = [name for name in self.jobs if name not in self.held]
        slots = np.array([self.snapshot.slots[name] for name in waiting], np.int64)
        unknown = (
            {name for name, sure in zip(waiting, known(self.snapshot, slots), strict=True) if not sure}
            if waiting
            else set()
        )
        for name in unknown - set(started):
            for other in unknown & set(started):
                one, two = self.jobs[name], self.jobs[other]
                if self.alike(one, two):
                    assert self.rank(two) <= self.rank(one), f"{other} passed {name}"

    def alike(self, one: Job, two: Job) -> bool:
        slots = self.snapshot.slots
        speeds = self.snapshot.speeds
        fields = ("replica", "replicas", "queue", "selector", "prefers", "tolerates", "together", "strictly")
        return all(getattr(one, name) == getattr(two, name) for name in fields) and np.array_equal(
            speeds[slots[one.name]], speeds[slots[two.name]]
        )

    def may_use(self, job: Job, node: Node) -> bool:
        tolerated = all(job.tolerates.get(name) in (value, "") for name, value in node.taints.items())
        return tolerated and job.selector.items() <= node.labels.items()

    def places(self, job: Job, nodes: Sequence[str]) -> set[str]:
        """Which different places these nodes are, as far as the job minds."""
        if len(nodes) == 1 or not job.together:
            return {"anywhere"}
        rows = [self.snapshot.nodes[self.snapshot.node_rows[name]] for name in nodes]
        return {node.name if job.together == "node" else node.labels[job.together] for node in rows if node}

    def rank(self, job: Job) -> tuple[float, int]:
        if self.policy.algorithm == "fcfs":
            return 0.0, job.number
        slot = self.snapshot.slots[job.name]
        waited = self.snapshot.waited[slot] + self.now - self.snapshot.since[slot]
        return -(job.priority + AGEING_PER_HOUR * waited / 3600), job.number

    @invariant()
    def nothing_is_lost_or_made(self) -> None:
        for node, capacity in self.capacity.items():
            number = self.snapshot.node_rows[node]
            used = self.on(node)
            for resource in {*capacity, *used}:
                column = self.snapshot.resources.index(resource)
                free = self.snapshot.free[number, column] / per_unit(resource)
                assert free == capacity.get(resource, 0) - used[resource]
                lost = sum(1 - share for share, _ in self.shared(node, resource).values())
                assert self.snapshot.parts.lost_at((number, column)) == 1000 * lost, "of shared devices"

    @invariant()
    def states_agree(self) -> None:
        for name in self.jobs:
            state = self.snapshot.state[self.snapshot.slots[name]]
            assert (state >= RUNNING) == (name in self.held)
            assert (state == WAITING) == (name not in self.held)

    def teardown(self) -> None:
        """In the end whatever can run runs: nobody is forgotten, whatever has happened."""
        for name in self.stopping.copy():
            self.waits(name)
        for queue in self.queues:
            self.put_queue(queue, {}, 1.0)
        left = {name for name in self.jobs if name not in self.held and self.possible(name)}
        for _ in range(DRAIN_ROUNDS):
            if not left:
                break
            self.now += 4000.0
            self.carry_out(self.decide(self.snapshot, self.now, False), False)
            left -= self.held.keys()
            for name in sorted(self.held):
                self.ends(name)
        assert not left, f"{sorted(left)} never started under {self.policy.algorithm}"

    # What the test remembers.

    def waits(self, name: str) -> None:
        self.snapshot.wait(name, self.now)
        del self.held[name]
        self.stopping.discard(name)

    def ends(self, name: str) -> None:
        self.snapshot.remove(name, self.now)
        del self.held[name], self.jobs[name], self.saves[name]
        self.stopping.discard(name)

    def shared(self, node: str, kind: str) -> dict[int, tuple[float, float]]:
        """What is taken of each shared device of a node, and of its memory."""
        found: dict[int, tuple[float, float]] = {}
        for held in self.held.values():
            if held.placement.device and held.placement.kind == kind and held.placement.nodes[0][0] == node:
                share, memory = found.get(held.placement.device, (0.0, 0.0))
                found[held.placement.device] = share + held.need[kind], memory + held.device_memory
        return found

    def device_memory(self, name: str, placement: Placement) -> float:
        """Of a device that it has a share of: what it asked for, else as much of it as of the device."""
        if not placement.device:
            return 0.0
        share = self.need(name, placement)[placement.kind]
        return self.jobs[name].device_memory or share * DEVICE_MEMORY[placement.kind]

    def need(self, name: str, placement: Placement) -> dict[str, float]:
        """Of one replica there: `gpu` is a device of the placement's type."""
        found: Amounts = defaultdict(float)
        for resource, amount in self.jobs[name].replica.items():
            found[placement.kind if resource == "gpu" else resource] += amount
        return dict(found)

    def on(self, node: str) -> Amounts:
        used: Amounts = defaultdict(float)
        for held in self.held.values():
            for each, count in held.placement.nodes:
                for resource, amount in held.need.items():
                    used[resource] += amount * count * (each == node)
        return used

    def has_room(self, name: str, placement: Placement) -> bool:
        need, kind = self.need(name, placement), placement.kind
        for node, count in placement.nodes:
            used, capacity = self.on(node), self.capacity[node]
            if kind:
                # Who shares one takes no other, and who asks for whole ones takes none that is shared.
                shared = self.shared(node, kind)
                whole = used[kind] - sum(share for share, _ in shared.values())
                wants = float(placement.device not in shared) if placement.device else need[kind] * count
                if wants and whole + len(shared) + wants > capacity.get(kind, 0):
                    return False
            if any(
                used[name] + n * count > capacity.get(name, 0) for name, n in need.items() if name != kind
            ):
                return False
        return True

    def path(self, queue: str) -> list[str]:
        return [queue, *(self.path(PARENTS[queue]) if queue else [])]

    def used(self) -> dict[str, Amounts]:
        """By queue, with all under it; `gpu` is the sum of its types."""
        found: dict[str, Amounts] = {queue: defaultdict(float) for queue in (ROOT, *PARENTS)}
        for name, held in self.held.items():
            total = {resource: amount * held.placement.replicas for resource, amount in held.need.items()}
            total["gpu"] = sum(amount for resource, amount in total.items() if resource.startswith("gpu/"))
            for queue in self.path(self.jobs[name].queue):
                for resource, amount in total.items():
                    found[queue][resource] += amount
        return found

    def possible(self, name: str) -> bool:
        """Whether the nodes that there are could hold the job if they were empty."""
        job = self.jobs[name]
        kinds = ["gpu/A", "gpu/B"] if "gpu" in job.replica else [""]
        for kind in kinds:
            need = self.need(name, Placement((), kind))
            held = defaultdict[str, float](float)
            if any(job.device_memory > DEVICE_MEMORY[each] for each in need if each != "cpu"):
                continue
            for node, capacity in self.capacity.items():
                found = self.snapshot.nodes[self.snapshot.node_rows[node]]
                assert found is not None
                if self.may_use(job, found):
                    place = found.name if job.together == "node" else found.labels.get(job.together, "")
                    fits = min(capacity.get(resource, 0) // amount for resource, amount in need.items())
                    held[place if job.strictly and job.replicas > 1 else ""] += fits
            if max(held.values(), default=0) >= job.replicas:
                return True
        return False


@pytest.mark.timeout(0 if STEPS > STEPS_AT_ONCE else 60)
def test_the_engine_keeps_its_promises_whatever_happens() -> None:
    settings = hypothesis.settings(
        max_examples=max(1, min(STEPS, STEPS_AT_ONCE) // STEPS_EACH),
        stateful_step_count=STEPS_EACH,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        # A life takes long to make smaller; its seed plays it again: --hypothesis-seed.
        phases=[hypothesis.Phase.generate],
        report_multiple_bugs=False,
    )
    before = Counter(tally()) if STEPS > STEPS_AT_ONCE else Counter[str]()
    while True:
        run_state_machine_as_test(Life, settings=settings)
        if STEPS <= STEPS_AT_ONCE:
            return
        made = before + Counter(steps=steps_made.total(), **decisions)
        TALLY.parent.mkdir(exist_ok=True)
        TALLY.write_text(json.dumps({"engine": engine(), "made": made}))
        print(f"{made['steps']:,} steps: {dict(made)}", flush=True)
        if made["steps"] >= STEPS:
            return


def tally() -> dict[str, int]:
    """What earlier long runs have tried of the very same engine."""
    found = json.loads(TALLY.read_text()) if TALLY.exists() else {}
    return found["made"] if found.get("engine") == engine() else {}


@cache
def engine() -> str:
    """What was tried: the engine, the policies and these rules themselves."""
    sources = [Path(__file__), Path(policies.__file__), *Path(model.__file__).parent.glob("*.py")]
    return sha256(b"".join(path.read_bytes() for path in sorted(sources))).hexdigest()
