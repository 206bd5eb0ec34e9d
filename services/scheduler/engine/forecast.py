"""When a waiting job will start: the production engine, run ahead over the ends that are expected. Pure.

What nobody knows exactly, how long jobs still take, is drawn again and again from what is known of it, so the answer is
a span and not a moment. What will arrive meanwhile is not foreseen: under a policy that lets younger jobs pass, those
can make it later.
"""

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from statistics import NormalDist

import numpy as np

from services.scheduler.engine.model import RUNNING, WAITING, Placement
from services.scheduler.engine.order import remaining
from services.scheduler.engine.plan import Decide
from services.scheduler.engine.snapshot import Floats, Ints, Snapshot

RUNS = 24
"""Drawn futures: the tenth and the ninetieth percentile of so many are steady enough to be told."""
RESERVATIONS = 1
"""That a future is planned with, however many the policy has: they are most of the work and move the answer little."""
PLANS_MAX = 400
"""Planning steps of one future; what starts later than that is not foreseen."""
STUDENT = (0.0, 3.08, 1.89, 1.64, 1.53, 1.48, 1.44, 1.41, 1.40, 1.38)
"""Ninetieth percentiles by number of draws: few show less spread than there is."""
SHARED = 0.2
"""The same of what is wrong of all jobs alike, where it is people or the past that say how long they take."""
TOGETHER = 0.05
"""Ends that are this much of the way ahead apart are planned for together: far ahead nothing is known to the second."""
PREEMPTS = 0.05
"""The same of steps that preempt."""
HISTORY_MIN = 8
"""Earlier jobs, before they say anything of how long one takes of which nothing is known."""


class Basis(IntEnum):
    """What is known of how long a job takes, from best to worst."""

    PROGRESS = 0
    """Its speed, as it was seen to have it."""
    TOLD = 1
    """Its steps, and a speed that it was told to have or had before."""
    ESTIMATE = 2
    """What its submitter expects."""
    HISTORY = 3
    """How long others took."""
    NOTHING = 4


SPREAD = (0.1, 0.3, 0.5)
"""Of the first three: standard deviation of the logarithm of the true time over the expected one. What people expect is
often wrong by a factor of two. On average, over many jobs, it is taken to be right."""


@dataclass(frozen=True)
class Known:
    """What is known beside the snapshot.

    Attributes:
        history: Seconds that earlier jobs ran.
        endless: Jobs that never end by themselves.
        due: When jobs that pause may start.
    """

    history: Sequence[float] = ()
    endless: frozenset[str] = frozenset()
    due: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Forecast:
    """When a job starts.

    Attributes:
        start: As often before as after; None where it starts in no future that was looked at.
        earliest, latest: Nine in ten times it is not before the one, and not after the other; `latest` is None where nobody can tell.
        basis: The worst of what is known of the jobs that it waits for.
        ends: Jobs that end before, where it starts.
        placement: Where.
    """

    start: float | None
    earliest: float | None = None
    latest: float | None = None
    basis: Basis = Basis.PROGRESS
    ends: tuple[str, ...] = ()
    placement: Placement | None = None


def forecast(
    snapshot: Snapshot,
    make: Callable[[], Decide],
    name: str,
    now: float,
    known: Known,
    *,
    quantum: float = 0.0,
    seed: int = 0,
    enough: Callable[[], bool] = lambda: False,
) -> Forecast:
    """When a job will start, if nothing else arrives.

    Args:
        make: A policy, fresh for each future: it may remember what it did.
        quantum: Seconds between two steps that preempt; 0: none does.
        enough: Asked between futures: whether no more should be drawn.
    """
    lengths = _Lengths(snapshot, now, known)
    likely = _roll(snapshot, make(), name, now, lengths.expected(), known, quantum)
    if likely.at is None:
        return Forecast(None, basis=lengths.worst(likely.ends))
    rng, drawn = np.random.default_rng(seed), [likely.at]
    while len(drawn) < RUNS and not enough():
        found = _roll(snapshot, make(), name, now, lengths.drawn(rng), known, quantum)
        drawn.append(np.inf if found.at is None else found.at)
    earliest, middle, latest = _span(np.array(drawn) - now) + now
    return Forecast(
        start=middle if np.isfinite(middle) else likely.at,
        earliest=earliest if np.isfinite(earliest) else likely.at,
        latest=latest if np.isfinite(latest) else None,
        basis=lengths.worst(likely.ends),
        ends=tuple(snapshot.names[slot] for slot in likely.ends),
        placement=likely.placement,
    )


def _span(waits: Floats) -> Floats:
    """The tenth percentile, the median and the ninetieth of what these were drawn from."""
    if len(waits) > len(STUDENT) or not np.isfinite(waits).all():
        return np.quantile(waits, (0.1, 0.5, 0.9), method="nearest")
    logs, normal = np.log(np.maximum(waits, 1.0)), np.array([-1.0, 0.0, 1.0])
    wide = STUDENT[len(waits) - 1] * logs.std(ddof=min(1, len(waits) - 1)) * np.sqrt(1 + 1 / len(waits))
    found: Floats = np.exp(np.median(logs) + normal * wide) * (waits.max() > 0)
    return found


def starts_now(snapshot: Snapshot, decide: Decide, name: str, now: float, *, preempt: bool = False) -> bool:
    """Whether the next step would start a job."""
    return any(start.job == name for start in decide(snapshot, now, preempt).starts)


class _Lengths:
    """How long each job still runs: as expected, or drawn."""

    def __init__(self, snapshot: Snapshot, now: float, known: Known) -> None:
        self._snapshot = snapshot.copy()
        self._snapshot.touch(np.arange(len(snapshot.state)), now)
        self._known = known
        live = np.array(sorted(snapshot.slots.values()), np.int64)
        self._live: Ints = live
        self._left = np.zeros(len(snapshot.state))
        self._left[live] = remaining(self._snapshot, live)
        self.basis: Ints = np.full(len(snapshot.state), int(Basis.NOTHING))
        self.basis[live] = self._bases(live)
        guessed = live[self.basis[live] >= Basis.HISTORY]
        running = guessed[self._snapshot.state[guessed] == RUNNING]
        self._survival = _Survival(known.history, self._snapshot.ran[running])
        self._endless = [snapshot.slots[name] for name in known.endless if name in snapshot.slots]

    def expected(self) -> Floats:
        """Seconds by slot; of what is drawn from others, the median."""
        return self._of(np.ones(len(self._left)), np.full(len(self._left), 0.5))

    def drawn(self, rng: np.random.Generator) -> Floats:
        """One draw of them."""
        spread = np.array([*SPREAD[:2], 0.0, 0.0, 0.0])[self.basis]
        factors = np.exp(spread * rng.standard_normal(len(self._left)) - spread**2 / 2)
        shared = np.where(self.basis >= Basis.ESTIMATE, np.exp(SHARED * rng.standard_normal()), 1.0)
        return self._of(factors, rng.uniform(0.02, 0.98, len(self._left))) * shared

    def worst(self, slots: Sequence[int]) -> Basis:
        """The worst of what is known of these."""
        return Basis(int(self.basis[list(slots)].max(initial=0)))

    def _of(self, factors: Floats, quantiles: Floats) -> Floats:
        found = self._left * factors
        for slot in self._live[self.basis[self._live] >= Basis.ESTIMATE].tolist():
            ran, quantile = float(self._snapshot.ran[slot]), float(quantiles[slot])
            if self.basis[slot] == Basis.ESTIMATE:
                found[slot] = _beyond(float(self._snapshot.estimate[slot]), ran, quantile)
            else:
                found[slot] = self._survival.beyond(ran, quantile)
        found[self._endless] = np.inf
        return np.maximum(found, 1.0)

    def _bases(self, slots: Ints) -> Ints:
        snapshot = self._snapshot
        told = np.maximum(snapshot.speeds[slots].max(axis=1, initial=0.0), snapshot.pace[slots])
        work = snapshot.work[slots] > 0
        last = Basis.HISTORY if len(self._known.history) >= HISTORY_MIN else Basis.NOTHING
        return np.select(
            [work & (snapshot.seen_speeds(slots) > 0), work & (told > 0), snapshot.estimate[slots] > 0],
            [int(Basis.PROGRESS), int(Basis.TOLD), int(Basis.ESTIMATE)],
            int(last),
        )


def _beyond(estimate: float, ran: float, quantile: float) -> float:
    """What a job still runs that was expected to run so long in all, and has run for so long: it may be well beyond."""
    spread, normal = SPREAD[Basis.ESTIMATE], NormalDist()
    passed = normal.cdf(math.log(ran / estimate) / spread) if ran > 0 else 0.0
    rank = min(0.999, passed + quantile * (1 - passed))
    return max(0.0, estimate * math.exp(spread * normal.inv_cdf(rank) - spread**2 / 2) - ran)


class _Survival:
    """How long jobs run of which nothing else is known: by those that ended, and by those that have not yet.

    Without the second, short jobs would count too much: they are the first to end. Source: Kaplan and Meier, 1958.
    """

    def __init__(self, ended: Sequence[float], running: Floats) -> None:
        self._times: Floats = np.sort(np.asarray(ended, np.float64))
        count, running = len(self._times), np.sort(running)
        at_risk = count - np.arange(count) + len(running) - np.searchsorted(running, self._times)
        self._stay: Floats = np.cumprod(1 - 1 / np.maximum(1, at_risk))
        """Part of all jobs that run longer than each of the times."""

    def beyond(self, ran: float, quantile: float) -> float:
        """What a job still runs that has run for so long, at a quantile."""
        first = int(np.searchsorted(self._times, ran, side="right"))
        now = float(self._stay[first - 1]) if first else 1.0
        wanted = (1 - quantile) * now
        at = first + int(np.searchsorted(-self._stay[first:], -wanted))
        if at < len(self._times):
            return float(self._times[at]) - ran
        # Beyond all that was seen, a heavy tail: half of those that have run so long run as long again.
        last = float(self._times[-1]) if len(self._times) else 0.0
        end = float(self._stay[-1]) if len(self._times) > first else now
        longest = max(ran, last, 60.0)
        return longest * max(1.0, end / max(wanted, 1e-9)) - ran


@dataclass(frozen=True)
class _Rolled:
    at: float | None
    placement: Placement | None = None
    ends: tuple[int, ...] = ()


def _roll(
    snapshot: Snapshot,
    decide: Decide,
    name: str,
    now: float,
    left: Floats,
    known: Known,
    quantum: float,
) -> _Rolled:
    """One future, up to the start of a job."""
    future = _Future(snapshot.copy(), left, now)
    for paused, at in known.due.items():
        future.snapshot.due[future.snapshot.slots[paused]] = max(now, at)
    at, tick = now, now
    for _ in range(PLANS_MAX):
        preempts = quantum > 0 and at >= tick
        plan = decide(future.snapshot, at, preempts)
        if preempts:
            tick = at + max(quantum, PREEMPTS * (at - now))
        for stopped in plan.stops:
            future.stop(stopped, at)
        for start in plan.starts:
            if start.job == name:
                nodes = {node for node, _ in start.placement.nodes}
                return _Rolled(at, start.placement, future.ended_on(nodes))
            future.start(start.job, start.placement, at)
        if plan.starts and not preempts:
            continue  # a step decides a bounded number of starts
        following = future.next(at, tick if quantum > 0 else np.inf)
        if not np.isfinite(following):
            break
        at = max(following, at + TOGETHER * (at - now))
        future.advance(at)
    return _Rolled(None, ends=future.ended_on(None))


class _Future:
    """A snapshot on its way ahead."""

    def __init__(self, snapshot: Snapshot, left: Floats, now: float) -> None:
        self.snapshot = snapshot
        self._left = left
        """Seconds that each job still runs, by slot, as of `_since`."""
        self._since = np.full(len(left), now)
        self._ends: list[tuple[float, int, float]] = []
        """When a job ends: time, slot, and since when it ran then, which tells whether it still does."""
        self._ended: list[tuple[int, frozenset[str]]] = []
        busy = np.flatnonzero(snapshot.state >= RUNNING)
        self._rate, self._begun = np.zeros(len(left)), snapshot.done.copy()
        """Steps per second, and steps at `_since`."""
        for slot in busy.tolist():
            self._go(slot, now)

    def start(self, name: str, placement: Placement, at: float) -> None:
        """A job starts, or moves."""
        slot = self.snapshot.slots[name]
        if slot in self.snapshot.holdings:
            self._account(slot, at)
        self.snapshot.start(name, placement, at)
        self._go(slot, at + float(self.snapshot.restart[slot]))

    def stop(self, name: str, at: float) -> None:
        """A job gives way; its work is saved."""
        self._account(self.snapshot.slots[name], at)
        self.snapshot.wait(name, at)

    def next(self, at: float, tick: float) -> float:
        """When something next happens."""
        waits = self.snapshot.due[(self.snapshot.due > at) & (self.snapshot.state == WAITING)]
        due = float(waits.min(initial=np.inf))
        return min(self._ends[0][0] if self._ends else np.inf, tick if self._ends else np.inf, due)

    def advance(self, at: float) -> None:
        """Time passes: progress is made, and jobs end."""
        while self._ends and self._ends[0][0] <= at:
            end, slot, since = heapq.heappop(self._ends)
            if slot in self.snapshot.holdings and self._since[slot] == since:
                nodes = frozenset(node for node, _ in self.snapshot.holdings[slot].placement.nodes)
                self._ended.append((slot, nodes))
                self.snapshot.remove(self.snapshot.names[slot], end)
        busy = np.flatnonzero(self.snapshot.state >= RUNNING)
        passed = np.maximum(0.0, at - self._since[busy])
        self.snapshot.done[busy] = self._begun[busy] + passed * self._rate[busy]

    def ended_on(self, nodes: set[str] | None) -> tuple[int, ...]:
        """Jobs that ended on any of these nodes, or anywhere."""
        return tuple(slot for slot, where in self._ended if nodes is None or where & nodes)

    def _go(self, slot: int, since: float) -> None:
        self._since[slot], self._begun[slot] = since, self.snapshot.done[slot]
        end = since + self._left[slot]
        if np.isfinite(end):
            heapq.heappush(self._ends, (end, slot, since))
        rest = self.snapshot.work[slot] - self.snapshot.done[slot]
        self._rate[slot] = max(0.0, rest) / self._left[slot] if self.snapshot.work[slot] > 0 else 0.0

    def _account(self, slot: int, at: float) -> None:
        self._left[slot] = max(1.0, self._left[slot] - max(0.0, at - self._since[slot]))
