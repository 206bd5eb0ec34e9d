"""What a sweep does next, by what its trials and their runs have come to. Pure, and safe to repeat.

`advance` is given everything that is stored and says everything that changes: a caller applies it whole or not at all.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from aios.names import RunName
from services.trainer import runs
from services.trainer.sweeps import halving, population
from services.trainer.sweeps.halving import Verdict
from services.trainer.sweeps.rules import (
    FAILURES_MAX,
    FINAL,
    TRIAL_FINAL,
    UNDER_WAY,
    Proposal,
    State,
    Sweep,
    SweepSpec,
    Trial,
    TrialState,
)
from services.trainer.sweeps.space import Values

EXPLOIT = "exploit"
"""Attribute of a member of a population: whom it takes over from, and with which values, once its run has stopped."""

Propose = Callable[[SweepSpec, Sequence[Trial]], Proposal | None]


@dataclass(frozen=True)
class View:
    """A trial's newest run, and what all its runs have measured."""

    state: runs.State
    message: str = ""
    scores: Sequence[float] = ()
    """Newest value of each objective; empty while one is missing."""
    curve: Sequence[float] = ()
    """The first objective, report by report."""
    steps: int = 0
    completed: bool = False
    """The run handed its result over, also where it was stopped right after."""


@dataclass(frozen=True)
class Start:
    """A run to make."""

    trial: int
    segment: int
    values: Values
    source: RunName | None = None
    """It goes on from the newest checkpoint of this one."""


@dataclass(frozen=True)
class Decision:
    """The sweep and its trials as they become, with the runs to make and to stop."""

    sweep: Sweep
    trials: Sequence[Trial]
    starts: Sequence[Start] = ()
    stops: Mapping[RunName, str] = field(default_factory=dict)
    """Why, for people."""
    make_last: bool = False


def advance(
    sweep: Sweep,
    trials: Sequence[Trial],
    views: Mapping[int, View],
    last: View | None,
    now: datetime,
    propose: Propose,
) -> Decision:
    """Decide.

    Args:
        trials: All, by number.
        views: Of the trials that are under way.
        last: Of the run after all trials, where there is one.
    """
    if sweep.state in FINAL:
        return Decision(sweep, trials)
    if sweep.last_created:
        stops = {sweep.last_run: "Its sweep was cancelled."} if sweep.state is State.STOPPING else {}
        return Decision(_after_last(sweep, last, now), trials, stops=stops)
    planner = _Planner(sweep, trials, views, now, propose)
    planner.observe()
    if sweep.state is State.STOPPING:
        planner.end_all(TrialState.CANCELLED, "Its sweep was cancelled.")
    elif planner.time_is_up():
        planner.end_all(TrialState.PRUNED, "The sweep's time was up.")
    elif planner.hopeless():
        planner.end_all(TrialState.CANCELLED, "Other trials of its sweep failed.")
    else:
        planner.judge()
        planner.fill()
    return planner.done()


def cancel(sweep: Sweep) -> Sweep:
    """The sweep after a request to stop. One that has ended stays as it is."""
    if sweep.state in FINAL or sweep.state is State.STOPPING:
        return sweep
    return replace(sweep, state=State.STOPPING, reason="CANCEL_REQUESTED", message="Was asked to stop.")


class _Planner:
    def __init__(
        self,
        sweep: Sweep,
        trials: Sequence[Trial],
        views: Mapping[int, View],
        now: datetime,
        propose: Propose,
    ) -> None:
        self._sweep, self._spec = sweep, sweep.spec
        self._trials = list(trials)
        self._views = views
        self._now = now
        self._propose = propose
        self._starts: list[Start] = []
        self._stops: dict[RunName, str] = {}

    def observe(self) -> None:
        """Take over what the runs say."""
        for number, view in self._views.items():
            self._set(self._seen(self._trials[number], view))

    def time_is_up(self) -> bool:
        time = self._spec.budget.time
        return time is not None and self._now - self._sweep.create_time >= time

    def hopeless(self) -> bool:
        """So many trials have failed, and none has given a value, that the next would fail too."""
        failed = sum(trial.state is TrialState.FAILED for trial in self._trials)
        return failed >= FAILURES_MAX and not self._has_result()

    def end_all(self, state: TrialState, why: str) -> None:
        """Stop what runs; what is paused ends at once."""
        for trial in list(self._trials):
            if trial.state in UNDER_WAY:
                self._stop(trial, state, why)
            elif trial.state is TrialState.PAUSED:
                self._set(replace(trial, state=state, message=why, end_time=self._now))

    def judge(self) -> None:
        """Let pruner and population look at the trials that have come to a look."""
        for number in [trial.number for trial in self._trials if trial.state is TrialState.RUNNING]:
            trial = self._trials[number]
            if self._spec.sampler.kind == "population":
                self._compare(trial)
                continue
            verdict, level = halving.verdict(self._spec, trial, self._trials)
            trial = replace(trial, level=level)
            self._set(trial)
            if verdict is Verdict.PAUSE:
                self._stop(trial, TrialState.PAUSED, f"Others were better after {trial.reports} reports.")
            elif verdict is Verdict.END:
                self._stop(trial, TrialState.PRUNED, f"Was below the median after {trial.reports} reports.")

    def fill(self) -> None:
        """Start runs where there is room: what was paused and has turned out good goes before what is new."""
        while self._room() > 0 and not self._steps_spent():
            promoted = halving.next_promotion(self._spec, self._trials)
            if promoted is not None:
                self._resume(promoted)
            elif not self._new() and not self._finish_one():
                return

    def done(self) -> Decision:
        """Everything that was decided, and whether the sweep is over."""
        sweep, wants_last = self._sweep, False
        if not any(trial.state in UNDER_WAY for trial in self._trials):
            for trial in self._trials:
                if trial.state is TrialState.PAUSED:
                    self._set(
                        replace(
                            trial, state=TrialState.PRUNED, message="Others were better.", end_time=self._now
                        )
                    )
            sweep, wants_last = self._ended()
        return Decision(sweep, self._trials, self._starts, self._stops, wants_last)

    def _ended(self) -> tuple[Sweep, bool]:
        sweep, now = self._sweep, self._now
        if sweep.state is State.STOPPING:
            return replace(sweep, state=State.CANCELLED, message="Cancelled.", end_time=now), False
        failed = [trial for trial in self._trials if trial.state is TrialState.FAILED]
        if not self._has_result():
            why = failed[-1].message if failed else "No trial came as far as a report."
            message = f"No trial gave a result. The last one: {why}" if failed else why
            return replace(
                sweep, state=State.FAILED, reason="NO_RESULT", message=message, end_time=now
            ), False
        if self.time_is_up() or self._steps_spent():
            sweep = replace(sweep, reason="BUDGET_SPENT", message="Its budget was spent.")
        if sweep.last:
            return replace(sweep, state=State.FINISHING, last_created=True), True
        return replace(sweep, state=State.SUCCEEDED, end_time=now), False

    def _seen(self, trial: Trial, view: View) -> Trial:
        trial = replace(
            trial,
            scores=tuple(view.scores) or trial.scores,
            reports=max(trial.reports, len(view.curve)),
            steps=max(trial.steps, view.steps),
        )
        if self._spec.sampler.kind == "population":
            due = population.looks(self._spec, trial.reports)
        else:
            due = halving.looks(self._spec.pruner, trial.number, trial.reports)
        fresh = {at: view.curve[at - 1] for at in due if at not in trial.looks and at <= len(view.curve)}
        if fresh:
            trial = replace(trial, looks={**trial.looks, **fresh})
        if view.state not in runs.FINAL:
            return trial
        if view.state is runs.State.SUCCEEDED or view.completed:
            if view.scores:
                return replace(trial, state=TrialState.SUCCEEDED, then=None, message="", end_time=self._now)
            wanted = ", ".join(objective.metric for objective in self._spec.objectives)
            return self._failed(trial, f"Its run reported no {wanted}.")
        if view.state is runs.State.FAILED:
            return self._failed(trial, view.message)
        if trial.then is None:
            return replace(
                trial, state=TrialState.CANCELLED, message="Its run was cancelled.", end_time=self._now
            )
        if trial.then is TrialState.RUNNING:
            return self._taken_over(trial)
        end = self._now if trial.then in TRIAL_FINAL else None
        return replace(trial, state=trial.then, then=None, end_time=end)

    def _failed(self, trial: Trial, why: str) -> Trial:
        return replace(trial, state=TrialState.FAILED, then=None, message=why, end_time=self._now)

    def _compare(self, trial: Trial) -> None:
        due = population.looks(self._spec, trial.reports)
        if len(due) <= trial.level:
            return
        trial = replace(trial, level=len(due))
        self._set(trial)
        found = population.exploit(self._spec, trial, self._trials)
        if found is None:
            return
        plan = {"source": found.source, "values": found.values}
        self._set(replace(trial, attributes={**trial.attributes, EXPLOIT: plan}))
        why = f"Goes on from trial {found.source}, which was better after {trial.reports} reports."
        self._stop(self._trials[trial.number], TrialState.RUNNING, why)

    def _taken_over(self, trial: Trial) -> Trial:
        """A member of a population whose run has stopped: it goes on from another's weights."""
        plan = trial.attributes[EXPLOIT]
        source = self._trials[plan["source"]]
        rest = {key: value for key, value in trial.attributes.items() if key != EXPLOIT}
        after = replace(
            trial,
            state=TrialState.RUNNING,
            then=None,
            values=plan["values"],
            runs=trial.runs + 1,
            attributes={**rest, "source": source.number},
        )
        self._starts.append(
            Start(trial.number, after.runs, after.values, self._sweep.run_of(source.number, source.runs))
        )
        return after

    def _resume(self, trial: Trial) -> None:
        source = self._sweep.run_of(trial.number, trial.runs)
        after = replace(
            trial, state=TrialState.RUNNING, level=trial.level + 1, runs=trial.runs + 1, message=""
        )
        self._set(after)
        self._starts.append(Start(trial.number, after.runs, after.values, source))

    def _new(self) -> bool:
        number = len(self._trials)
        wanted = self._spec.budget.trials
        if self._spec.sampler.kind == "population":
            wanted = population.size(self._spec)
        if number >= wanted:
            return False
        proposal = self._propose(self._spec, self._trials)
        if proposal is None:
            return False
        trial = Trial(number, proposal.values, TrialState.RUNNING, self._now, proposal.attributes)
        self._trials.append(trial)
        self._starts.append(Start(number, 1, trial.values))
        return True

    def _finish_one(self) -> bool:
        """Where all are paused and none is whole, the best goes on: a sweep ends with one that ran to its end."""
        if any(trial.state in UNDER_WAY or trial.state is TrialState.SUCCEEDED for trial in self._trials):
            return False
        trial = halving.furthest(self._spec, self._trials)
        if trial is not None:
            self._resume(trial)
        return trial is not None

    def _stop(self, trial: Trial, then: TrialState, why: str) -> None:
        """Asked again in every pass until the run has ended: asking twice changes nothing."""
        self._stops[self._sweep.run_of(trial.number, trial.runs)] = why
        if trial.state is TrialState.RUNNING or trial.then is not then:
            self._set(replace(trial, state=TrialState.STOPPING, then=then, message=why))

    def _room(self) -> int:
        return self._spec.parallelism - sum(trial.state in UNDER_WAY for trial in self._trials)

    def _has_result(self) -> bool:
        return any(trial.scores and trial.state is not TrialState.FAILED for trial in self._trials)

    def _steps_spent(self) -> bool:
        budget = self._spec.budget.steps
        return bool(budget) and sum(trial.steps for trial in self._trials) >= budget

    def _set(self, trial: Trial) -> None:
        self._trials[trial.number] = trial


def _after_last(sweep: Sweep, last: View | None, now: datetime) -> Sweep:
    """The sweep while its last run is under way, and once it has ended."""
    if last is None or last.state not in runs.FINAL:
        return sweep
    if sweep.state is State.STOPPING or last.state is runs.State.CANCELLED:
        state, message = State.CANCELLED, "Cancelled."
    elif last.state is runs.State.SUCCEEDED:
        state, message = State.SUCCEEDED, sweep.message
    else:
        state, message = State.FAILED, f"The last run failed: {last.message}"
    return replace(sweep, state=state, message=message, end_time=now)
