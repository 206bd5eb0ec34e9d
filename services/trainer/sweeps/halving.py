"""Which trials go on: successive halving, Hyperband, the median rule. Pure.

Successive halving looks at a trial after `first`, `first·η`, `first·η²` … reports: it goes on while it is among the
best 1/η of all that came so far; else it is paused at its checkpoint, and goes on when it has come to be among them
(Li et al. 2020, ASHA: nobody waits for anybody). Hyperband deals trials to brackets that begin to look at different
times (Li et al. 2018). The median rule ends a trial that is below the median of the others at the same number of
reports (Golovin et al. 2017); what it ends is not taken up again.
"""

import statistics
from collections.abc import Mapping, Sequence
from enum import Enum

from services.trainer.sweeps.rules import Pruner, SweepSpec, Trial, TrialState


class Verdict(Enum):
    """What becomes of a trial that has reached a look."""

    GO_ON = "go on"
    PAUSE = "pause"
    END = "end"


def looks(pruner: Pruner, number: int, reports: int) -> list[int]:
    """Numbers of reports at which trial `number` is looked at, up to `reports`."""
    if pruner.kind == "none":
        return []
    if pruner.kind == "median":
        return list(range(pruner.first, reports + 1))
    found, at = [], pruner.first * pruner.reduction ** bracket(pruner, number)
    while at <= reports and not (pruner.last and at >= pruner.last):
        found.append(at)
        at *= pruner.reduction
    return found


def bracket(pruner: Pruner, number: int) -> int:
    """The bracket of a trial: 0 looks first. Of each cycle of trials the early brackets get the most."""
    if pruner.kind != "hyperband":
        return 0
    count = brackets(pruner)
    shares = [
        -(-count * pruner.reduction ** (count - 1 - each) // (count - each)) for each in range(count)
    ]  # ⌈(s_max+1)/(s+1)·η^s⌉ with s = count-1-each
    at = number % sum(shares)
    for each, share in enumerate(shares):
        if at < share:
            return each
        at -= share
    raise AssertionError("the shares cover the cycle")


def brackets(pruner: Pruner) -> int:
    """How many: the last one looks once at most."""
    count, at = 1, pruner.first
    while at * pruner.reduction < pruner.last:
        at *= pruner.reduction
        count += 1
    return count


def verdict(spec: SweepSpec, trial: Trial, trials: Sequence[Trial]) -> tuple[Verdict, int]:
    """What becomes of a trial under way, by the looks stored so far, and how many looks it has passed."""
    due = looks(spec.pruner, trial.number, trial.reports)
    for level in range(trial.level, len(due)):
        if spec.pruner.kind == "median":
            if _below_median(spec, trial, trials, due[level]):
                return Verdict.END, level
        elif trial.number not in _best(
            spec, _rung(spec, trials, due[level], bracket(spec.pruner, trial.number))
        ):
            return Verdict.PAUSE, level
    return Verdict.GO_ON, len(due)


def promotable(spec: SweepSpec, trial: Trial, trials: Sequence[Trial]) -> bool:
    """Whether a paused trial has come to be among the best 1/η at the look that it stands at."""
    at = looks(spec.pruner, trial.number, trial.reports)[trial.level]
    return trial.number in _best(spec, _rung(spec, trials, at, bracket(spec.pruner, trial.number)))


def next_promotion(spec: SweepSpec, trials: Sequence[Trial]) -> Trial | None:
    """The paused trial to take up again, if one has turned out good."""
    return furthest(spec, [t for t in trials if t.state is TrialState.PAUSED and promotable(spec, t, trials)])


def furthest(spec: SweepSpec, trials: Sequence[Trial]) -> Trial | None:
    """Of those that are paused the one that came furthest, then the best."""
    paused = [trial for trial in trials if trial.state is TrialState.PAUSED]
    return max(paused, key=lambda trial: (trial.level, _rank(spec, trial), -trial.number), default=None)


def _rung(spec: SweepSpec, trials: Sequence[Trial], at: int, of_bracket: int) -> Mapping[int, float]:
    return {
        trial.number: spec.objectives[0].better(trial.looks[at])
        for trial in trials
        if at in trial.looks and bracket(spec.pruner, trial.number) == of_bracket
    }


def _best(spec: SweepSpec, rung: Mapping[int, float]) -> set[int]:
    count = len(rung) // spec.pruner.reduction
    return set(sorted(rung, key=lambda number: (-rung[number], number))[:count])


def _rank(spec: SweepSpec, trial: Trial) -> float:
    at = looks(spec.pruner, trial.number, trial.reports)[trial.level]
    return spec.objectives[0].better(trial.looks[at])


def _below_median(spec: SweepSpec, trial: Trial, trials: Sequence[Trial], at: int) -> bool:
    better = spec.objectives[0].better
    others = [
        better(other.looks[at]) for other in trials if other.number != trial.number and at in other.looks
    ]
    if len(others) < spec.pruner.startup:
        return False
    mine = max(better(value) for number, value in trial.looks.items() if number <= at)
    return mine < statistics.median(others)
