"""Linear programs over groups of jobs and types of accelerator. Pure: the same input gives the same answer."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from services.scheduler.engine.snapshot import Bools, Floats, Ints

if TYPE_CHECKING:  # agents read plans and make none: they do without the solver
    import highspy

TOLERANCE = 1e-7
SMALL = 1e-3
"""Part of the largest price below which a price is none: an interior solution has no exact zeros."""
INTERIOR_MIN = 3_000
"""Columns from which on an interior point is found faster than a vertex."""
LARGE = 1e9
"""More than any level: what nothing else bounds."""


@dataclass(frozen=True)
class Groups:
    """Jobs of equal rows as one: shares here are of all members together."""

    value: Floats
    gangs: Floats
    counts: Floats
    capacity: Floats
    member: Ints
    """Group of each job."""

    @classmethod
    def of(cls, value: Floats, gangs: Floats, capacity: Floats) -> "Groups":
        """Group jobs by what they make on each type and by their size."""
        rows = np.column_stack([value, gangs])
        found, member, counts = np.unique(rows, axis=0, return_inverse=True, return_counts=True)
        return cls(found[:, :-1], found[:, -1], counts.astype(np.float64), capacity, member.reshape(-1))

    @property
    def none(self) -> Floats:
        return np.zeros(len(self.gangs))

    @property
    def ones(self) -> Floats:
        return np.ones(len(self.gangs))

    def spread(self, shares: Floats) -> Floats:
        """Shares of a group to shares of each of its members."""
        return np.clip((shares / self.counts[:, None])[self.member], 0.0, 1.0)


@dataclass(frozen=True)
class Solution:
    """An optimum, and the prices that prove it.

    Attributes:
        level: The t that was reached.
        shares: Of each group's members together, on each type.
        job_prices: What t would gain if a group had to make one less.
        device_prices: What it would gain by one more device of a type.
    """

    level: float
    shares: Floats
    job_prices: Floats
    device_prices: Floats

    @property
    def binding(self) -> Bools:
        """Groups that keep t from rising."""
        least = max(TOLERANCE, SMALL * float(self.job_prices.max(initial=0.0)))
        return np.asarray(self.job_prices > least)


def solve(groups: Groups, floor: Floats, need: Floats) -> Solution:
    """The largest t at which every group makes at least `floor + t * need`.

    Where nobody needs anything of t, the largest sum of what they make.
    """
    jobs, types = groups.value.shape
    lowest = np.concatenate([floor, np.full(jobs + types, -np.inf)])
    highest = np.concatenate([np.full(jobs, np.inf), groups.counts, groups.capacity])
    # Column by column: of the share (i, j) its rows are what i makes, i's time and j's devices; last, t.
    group, kind = np.divmod(np.arange(jobs * types), types)
    rows = np.column_stack([group, jobs + group, 2 * jobs + kind])
    values = np.column_stack(
        [
            (groups.value / groups.counts[:, None]).reshape(-1),
            np.ones(jobs * types),
            np.repeat(groups.gangs, types),
        ]
    )
    rising = np.flatnonzero(need)
    cost = np.append(
        np.zeros(jobs * types) if len(rising) else groups.value.reshape(-1), float(len(rising) > 0)
    )
    solution = _highs(
        cost,
        np.concatenate([np.arange(jobs * types + 1) * 3, [3 * jobs * types + len(rising)]]),
        np.concatenate([rows.reshape(-1), rising]),
        np.concatenate([values.reshape(-1), -need[rising]]),
        lowest,
        highest,
        upper=np.append(np.where(groups.value > 0, groups.counts[:, None], 0.0).reshape(-1), np.inf),
    )
    found, prices = np.array(solution.col_value), np.abs(np.array(solution.row_dual))
    return Solution(float(found[-1]), found[:-1].reshape(jobs, types), prices[:jobs], prices[2 * jobs :])


def solve_curved(groups: Groups, worth: Floats, slopes: Floats, heights: Floats) -> tuple[Floats, Floats]:
    """The largest sum of `worth` times what each group finds that a member makes worth.

    That is a concave function given by lines above it: group g finds m worth at most `heights[g, k] + slopes[g, k] m` for
    every k, and never less than the lowest of its lines at 0.

    Returns:
        Shares of each group's members together, and what a member of each finds its own worth.
    """
    jobs, types = groups.value.shape
    lines = slopes.shape[1]
    base = heights.min(axis=1)
    # Columns: shares, then the worth of each group above its base. Rows: lines, group by group; time; devices.
    group, kind = np.divmod(np.arange(jobs * types), types)
    line_rows = group[:, None] * lines + np.arange(lines)
    share_rows = np.column_stack([line_rows, jobs * lines + group, jobs * lines + jobs + kind])
    makes = (groups.value / groups.counts[:, None]).reshape(-1)
    share_values = np.column_stack(
        [-slopes[group] * makes[:, None], np.ones(jobs * types), np.repeat(groups.gangs, types)]
    )
    worth_rows = np.arange(jobs * lines)
    per_share, shares = lines + 2, jobs * types
    solution = _highs(
        np.concatenate([np.zeros(shares), worth]),
        np.concatenate([np.arange(shares) * per_share, shares * per_share + np.arange(jobs + 1) * lines]),
        np.concatenate([share_rows.reshape(-1), worth_rows]),
        np.concatenate([share_values.reshape(-1), np.ones(jobs * lines)]),
        np.full(jobs * lines + jobs + types, -np.inf),
        np.concatenate([(heights - base[:, None]).reshape(-1), groups.counts, groups.capacity]),
        upper=np.concatenate(
            [
                np.where(groups.value > 0, groups.counts[:, None], 0.0).reshape(-1),
                np.full(jobs, np.inf),
            ]
        ),
    )
    found = np.array(solution.col_value)
    return found[:shares].reshape(jobs, types), found[shares:] + base


def bound(groups: Groups, solution: Solution) -> float:
    """A level that no shares go beyond when all need alike, by the prices of a solution: an optimum reaches it.

    Whatever the prices are, it holds (weak duality): a group whose worth is above what its devices cost is held
    back by its own time alone, which counts for the difference.
    """
    worth = solution.job_prices / solution.job_prices.sum()
    gain = worth[:, None] / groups.counts[:, None] * groups.value - groups.gangs[:, None] * _scaled(solution)
    time = np.maximum(0.0, gain.max(axis=1))
    return float((groups.counts * time).sum() + groups.capacity @ _scaled(solution))


def _scaled(solution: Solution) -> Floats:
    prices: Floats = solution.device_prices / solution.job_prices.sum()
    return prices


def _highs(
    cost: Floats,
    starts: Ints,
    rows: Ints,
    values: Floats,
    lowest: Floats,
    highest: Floats,
    *,
    upper: Floats,
) -> "highspy.HighsSolution":
    """Maximise; columns are at least zero."""
    import highspy

    program = highspy.HighsLp()
    program.num_col_, program.num_row_ = len(cost), len(lowest)
    program.sense_ = highspy.ObjSense.kMaximize
    program.col_cost_ = cost
    program.col_lower_ = np.zeros(len(cost))
    program.col_upper_ = upper
    program.row_lower_ = lowest
    program.row_upper_ = highest
    program.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    program.a_matrix_.start_ = starts.astype(np.int32)
    program.a_matrix_.index_ = rows.astype(np.int32)
    program.a_matrix_.value_ = values
    solver = highspy.Highs()  # type: ignore[no-untyped-call]
    solver.setOptionValue("output_flag", False)
    # One thread, so that the same input gives the same vertex on every machine.
    solver.setOptionValue("threads", 1)
    solver.passModel(program)
    if len(cost) >= INTERIOR_MIN:
        solver.setOptionValue("solver", "ipm")
        solver.setOptionValue("run_crossover", "off")
        solver.run()
        if solver.getModelStatus() == highspy.HighsModelStatus.kOptimal:
            return solver.getSolution()
        # Too imprecise, which happens where much is slack: then a vertex.
        solver.setOptionValue("solver", "choose")
        solver.setOptionValue("run_crossover", "on")
        solver.clearSolver()
    solver.run()
    if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        raise RuntimeError(f"allocation: the solver ended as {solver.getModelStatus()}")
    return solver.getSolution()
