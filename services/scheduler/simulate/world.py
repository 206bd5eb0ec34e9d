"""The world that the scheduler's decisions are tried in: jobs arrive, run, are stopped, change speed and end.

The code that decides is the one in production, and it is fed as there: through the snapshot's small changes. What it is
told of a job is what a job reports, steps done and steps in a second now; what a trace knows of the future stays here.
"""

import heapq
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from aios.scheduling import DEVICE_MILLIS as DEVICE
from services.scheduler.engine.model import RUNNING, Job, Node, Placement, Queue
from services.scheduler.engine.plan import Decide
from services.scheduler.engine.snapshot import Floats, filled
from services.scheduler.simulate.traces import ANY, TraceJob

Knows = Literal["steps", "estimate", "nothing"]
AGAIN_MAX = 1000
"""Plans at one moment: each starts something, so no real one comes near."""


class Stuck(RuntimeError):
    """Jobs wait that will never start; the message names one."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How the world goes.

    Attributes:
        round_seconds: Between two steps that may preempt; 0 makes every step one.
        between: Whether arrivals and ends within a round are seen at once, to fill what is free. Without it nothing
            happens but at rounds; one ends early when nothing runs any more.
        every: Seconds between two plans at least: what happens meanwhile is seen together, as a busy scheduler sees it.
        restart: Seconds of its devices that every start costs a job.
        knows: What the scheduler knows of a job: how many steps it has and how fast it is, or how long its submitter
            says it takes, or neither.
        error: Speeds and estimates are told wrong, by a factor of up to this, either way, for each job its own.
    """

    round_seconds: float = 0.0
    between: bool = True
    every: float = 0.0
    restart: float = 0.0
    knows: Knows = "steps"
    error: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """A stretch of a job on its devices."""

    job: int
    start: float
    stop: float
    placement: Placement


@dataclass
class Outcome:
    """What became of every job, by its place in the trace.

    Attributes:
        held: Seconds on devices, restarts and all.
        starts: How often it started.
        moments: How often the scheduler was asked, and `deciding`: the seconds that it took.
    """

    jobs: Sequence[TraceJob]
    nodes: Sequence[Node]
    first: Floats
    ends: Floats
    held: Floats
    starts: Floats
    runs: list[Run] = field(default_factory=list)
    moments: int = 0
    deciding: float = 0.0


@dataclass(slots=True)
class _Live:
    """A job that has arrived and not ended."""

    index: int
    slot: int
    done: float = 0.0
    phase: int = 0
    until: float = 0.0
    """Steps at which its present phase ends."""
    since: float = 0.0
    """From when on it makes steps, of those that it had at that time."""
    rate: float = 0.0
    wrong: float = 1.0
    """What is told of it is its true value times this."""
    started: float = 0.0
    version: int = 0
    placement: Placement | None = None

    def steps(self, now: float) -> float:
        return min(self.until, self.done + max(0.0, now - self.since) * self.rate)


class World:
    """One simulation."""

    def __init__(
        self, jobs: Sequence[TraceJob], nodes: Sequence[Node], decide: Decide, rules: Rules | None = None
    ) -> None:
        self.rules = rules or Rules()
        self.snapshot = filled(nodes, [Queue(name) for name in sorted({job.queue for job in jobs}) if name])
        self._decide = decide
        self._jobs = jobs
        self._live: dict[str, _Live] = {}
        self._events: list[tuple[float, int, int]] = []
        """When a phase or a job ends: time, its place in the trace, version."""
        self._rng = random.Random(self.rules.seed)
        self._waiting = self._ended = self._next = 0
        # By slot, of what runs: see `_tell`.
        self._done = self._since = self._rate = np.zeros(0)
        size = len(jobs)
        self.outcome = Outcome(
            jobs, nodes, np.full(size, np.nan), np.full(size, np.nan), np.zeros(size), np.zeros(size)
        )
        self._refuse_impossible()

    def run(self) -> Outcome:
        """To the end of the last job.

        Raises:
            Stuck: The scheduler leaves jobs waiting for ever.
        """
        rules, jobs = self.rules, self._jobs
        # When the next round begins, and when what was seen since the last plan is planned for.
        tick = due = math.inf
        last = -math.inf
        while self._ended < len(jobs):
            idle = not self._live
            now = min(self._next_event(), tick, due)
            if math.isinf(now):
                raise Stuck(f"job {next(iter(self._live))} never starts")
            if self._happen(now) and (rules.between or rules.round_seconds <= 0):
                due = min(due, max(now, last + rules.every))
            if rules.round_seconds > 0 and self._live and (idle or (self._empty() and not rules.between)):
                # A round begins with the first job of all, and early where none has anything to run.
                tick = min(tick, now)
            if now >= min(tick, due):
                begins = now >= tick
                waited = self._waiting
                self._plan(now, begins or rules.round_seconds <= 0)
                last, due = now, math.inf
                if begins:
                    tick = now + rules.round_seconds
                if self._waiting == waited and self._next_event() == math.inf and waited:
                    raise Stuck(f"job {next(iter(self._live))} never starts")
            if not self._live:
                tick = math.inf
        return self.outcome

    def _next_event(self) -> float:
        """When something next happens by itself."""
        arrival = self._jobs[self._next].arrival if self._next < len(self._jobs) else math.inf
        return min(arrival, self._events[0][0]) if self._events else arrival

    # What happens by itself.

    def _happen(self, now: float) -> bool:
        """Arrivals and ends up to now. False when there was none of them."""
        seen = False
        while self._next < len(self._jobs) and self._jobs[self._next].arrival <= now:
            self._arrive(self._next)
            self._next += 1
            seen = True
        while self._events and self._events[0][0] <= now:
            at, index, version = heapq.heappop(self._events)
            live = self._live.get(self._name(index))
            if live is not None and live.version == version:
                seen |= self._turn(live, at)
        return seen

    def _arrive(self, index: int) -> None:
        trace = self._jobs[index]
        factor = self.rules.error ** self._rng.uniform(-1, 1)
        told: dict[str, float] = {}
        if self.rules.knows == "steps":
            kinds = self.snapshot.kinds if any(name.startswith("gpu") for name in trace.replica) else [ANY]
            told = {kind: speed * factor for kind in kinds if (speed := _speed(trace, kind))}
        slot = self.snapshot.add(
            Job(
                name=self._name(index),
                number=index,
                submitted=trace.arrival,
                replica=trace.replica,
                replicas=trace.replicas,
                least=trace.least,
                agreement=trace.agreement,
                queue=trace.queue,
                selector=trace.selector,
                prefers=trace.prefers,
                tolerates=trace.tolerates,
                together=trace.together,
                strictly=trace.strictly,
                priority=trace.priority,
                weight=trace.weight,
                work=trace.steps if self.rules.knows == "steps" else 0.0,
                speeds=told,
                estimate=trace.seconds() * factor if self.rules.knows == "estimate" else 0.0,
                restart=self.rules.restart,
            )
        )
        live = self._live[self._name(index)] = _Live(index, slot)
        live.until = trace.phases[0].steps if trace.phases else trace.steps
        live.wrong = factor
        self._waiting += 1

    def _turn(self, live: _Live, at: float) -> bool:
        """A phase of a job ends, or with its last the job. True then."""
        trace = self._jobs[live.index]
        live.done = live.until
        if live.phase + 1 >= len(trace.phases):
            self._leave(live, at)
            self.snapshot.remove(self._name(live.index), at)
            del self._live[self._name(live.index)]
            self.outcome.ends[live.index] = at
            self._ended += 1
            return True
        live.phase += 1
        live.until += trace.phases[live.phase].steps
        self._go(live, at)
        return False

    # What the scheduler does.

    def _plan(self, now: float, preempt: bool) -> None:
        for _ in range(AGAIN_MAX):
            if not self._live:
                return
            self._tell(now)
            began = time.perf_counter()
            plan = self._decide(self.snapshot, now, preempt)
            self.outcome.deciding += time.perf_counter() - began
            self.outcome.moments += 1
            for name in plan.stops:
                self._stop(self._live[name], now)
            moved = [start for start in plan.starts if self._live[start.job].placement is not None]
            for start in moved:
                self._stop(self._live[start.job], now)
            for start in plan.starts:
                self._start(self._live[start.job], start.placement, now)
            # A step decides a bounded number of starts: what is left is decided by asking again.
            if not plan.starts or preempt:
                return

    def _tell(self, now: float) -> None:
        """Progress of all that runs, as their agents would report it."""
        if self.rules.knows != "steps":
            return
        running = np.flatnonzero(self.snapshot.state == RUNNING)
        passed = np.maximum(0.0, now - self._since[running])
        self.snapshot.done[running] = self._done[running] + passed * self._rate[running]

    def _start(self, live: _Live, placement: Placement, now: float) -> None:
        name, outcome = self._name(live.index), self.outcome
        self.snapshot.start(name, placement, now)
        if math.isnan(outcome.first[live.index]):
            outcome.first[live.index] = now
        outcome.starts[live.index] += 1
        live.started, live.placement = now, placement
        self._waiting -= 1
        self._go(live, now + self.rules.restart)

    def _go(self, live: _Live, since: float) -> None:
        """From then on it makes steps at the speed of its present phase."""
        trace, placement = self._jobs[live.index], live.placement
        assert placement is not None
        scale = self.snapshot.scale
        rate = _speed(trace, placement.kind)
        rate *= scale(live.slot, placement.replicas) / scale(live.slot, trace.replicas)
        if trace.phases:
            rate *= trace.phases[live.phase].factor
            if self.rules.knows == "steps" and live.phase:
                self.snapshot.measured(self._name(live.index), placement.kind, rate * live.wrong)
        live.since, live.rate = since, rate
        live.version += 1
        heapq.heappush(self._events, (since + (live.until - live.done) / rate, live.index, live.version))
        if live.slot >= len(self._done):
            grown = len(self.snapshot.state) - len(self._done)
            self._done, self._since, self._rate = (
                np.pad(column, (0, grown)) for column in (self._done, self._since, self._rate)
            )
        self._done[live.slot], self._since[live.slot], self._rate[live.slot] = live.done, since, rate

    def _stop(self, live: _Live, now: float) -> None:
        live.done = live.steps(now)
        live.version += 1
        name = self._name(live.index)
        if self.rules.knows == "steps":
            self.snapshot.progress(name, live.done)
        self._leave(live, now)
        self.snapshot.wait(name, now)
        self._waiting += 1

    def _leave(self, live: _Live, now: float) -> None:
        assert live.placement is not None
        self.outcome.held[live.index] += now - live.started
        self.outcome.runs.append(Run(live.index, live.started, now, live.placement))
        live.placement = None

    def _name(self, index: int) -> str:
        # A trace may name two jobs alike; the number after it makes them two.
        return f"{self._jobs[index].name}#{index}"

    def _empty(self) -> bool:
        return self._waiting == len(self._live)

    def _refuse_impossible(self) -> None:
        """Before anything runs, so that no simulation ends with a job that could never start."""
        total = self.snapshot.capacity.sum(axis=0) / DEVICE
        for job in self._jobs:
            kinds = [kind for kind in self.snapshot.kinds if _speed(job, kind) > 0]
            gpus = sum(n for name, n in job.replica.items() if name.startswith("gpu")) * job.replicas
            if gpus and not any(gpus <= total[self.snapshot.resources.index(kind)] for kind in kinds):
                raise ValueError(
                    f"job {job.name} of the trace needs {gpus} GPUs of one type; no type has as many"
                )


def _speed(job: TraceJob, kind: str) -> float:
    return job.speeds.get(kind) or job.speeds.get(ANY, 0.0)
