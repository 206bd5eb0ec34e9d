"""What a sweep decides, without a platform: the runs are played by a function of their settings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios.errors import InvalidArgument
from aios.names import SweepName
from services.trainer import runs
from services.trainer.sweeps import halving, report, rules, sampling, space
from services.trainer.sweeps.advance import View, advance, cancel
from services.trainer.sweeps.rules import (
    TRIAL_FINAL,
    UNDER_WAY,
    Budget,
    Objective,
    Pruner,
    Sampler,
    State,
    Sweep,
    SweepSpec,
    Trial,
    TrialState,
)
from services.trainer.sweeps.space import Choice, Parameter, Range, Values

NOW = datetime(2030, 1, 1, tzinfo=UTC)
SPACE = [
    Parameter("x", Range(0.0, 1.0)),
    Parameter("rate", Range(1e-4, 1e-1, log=True)),
    Parameter("depth", Range(1, 4, whole=True)),
    Parameter("kind", Choice(("a", "b", True))),
    Parameter("extra", Range(0.0, 2.0, step=0.5), {"kind": ("b",)}),
]
NUMBERS = SPACE[:3]
MAX = Objective("score")


def spec(sampler: str = "random", pruner: str = "none", trials: int = 20, **more: object) -> SweepSpec:
    return SweepSpec(
        space=more.pop("space", SPACE),  # type: ignore[arg-type]
        objectives=more.pop("objectives", [MAX]),  # type: ignore[arg-type]
        sampler=Sampler(sampler, seed=3, startup=5, interval=2),
        pruner=Pruner(pruner, last=9),
        parallelism=3,
        budget=Budget(trials, **more.pop("budget", {})),  # type: ignore[arg-type]
    )


def score(values: Values, reports: int) -> float:
    """Better near x = 0.7, and the longer it runs."""
    return 1 - (float(values["x"]) - 0.7) ** 2 - 0.5 / reports


@dataclass
class Played:
    """A sweep whose runs go one report further with every tick."""

    spec: SweepSpec
    length: int = 9
    sweep: Sweep = field(init=False)
    trials: Sequence[Trial] = ()
    reports: dict[int, int] = field(default_factory=dict)
    """Of each trial, over all its runs."""
    made: list[tuple[int, int]] = field(default_factory=list)
    stopped: set[int] = field(default_factory=set)
    fails: Callable[[int], bool] = lambda number: False
    now: datetime = NOW

    def __post_init__(self) -> None:
        self.sweep = Sweep(SweepName("p", "s"), self.spec, State.RUNNING, NOW, NOW)

    def view(self, trial: Trial) -> View:
        seen = self.reports[trial.number]
        curve = [score(trial.values, each) for each in range(1, seen + 1)]
        state = runs.State.RUNNING
        if trial.number in self.stopped:
            state = runs.State.CANCELLED
        elif self.fails(trial.number):
            state = runs.State.FAILED
        elif seen >= self.length:
            state = runs.State.SUCCEEDED
        scores = [curve[-1]] * len(self.spec.objectives) if curve else []
        return View(state, "", scores, curve, seen)

    def tick(self) -> None:
        for trial in self.trials:
            if trial.state in UNDER_WAY and trial.number not in self.stopped:
                self.reports[trial.number] += 1
        self.decide()

    def decide(self) -> None:
        views = {trial.number: self.view(trial) for trial in self.trials if trial.state in UNDER_WAY}
        decided = advance(self.sweep, self.trials, views, None, self.now, sampling.propose)
        self.sweep, self.trials = decided.sweep, decided.trials
        for start in decided.starts:
            self.made.append((start.trial, start.segment))
            self.stopped.discard(start.trial)
            self.reports.setdefault(start.trial, 0)
        for name in decided.stops:
            self.stopped.add(int(name.run.removeprefix("s-t").split("-")[0]))

    def play(self, ticks: int = 2000) -> None:
        for _ in range(ticks):
            if self.sweep.state in rules.FINAL:
                return
            self.tick()
        raise AssertionError("the sweep does not end")


@pytest.mark.parametrize("sampler", ["random", "tpe", "cmaes", "gp", "nsga2"])
def test_every_sampler_stays_in_the_space_and_a_sweep_ends_after_its_trials(sampler: str) -> None:
    played = Played(spec(sampler, trials=16))
    played.play()
    assert played.sweep.state is State.SUCCEEDED
    assert [trial.state for trial in played.trials] == [TrialState.SUCCEEDED] * 16
    assert len(played.made) == len(set(played.made)) == 16
    for trial in played.trials:
        assert ("extra" in trial.values) is (trial.values["kind"] == "b")
        assert trial.values["depth"] in (1, 2, 3, 4)
        assert 1e-4 <= float(trial.values["rate"]) <= 1e-1
        assert trial.values.get("extra", 0.5) in (0.0, 0.5, 1.0, 1.5, 2.0)


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "gp", "nsga2"])
def test_a_rebuilt_sampler_proposes_what_it_would_have_proposed(sampler: str) -> None:
    played = Played(spec(sampler, trials=14))
    played.play()
    for count in (0, 1, 7, 13):
        known = [trial for trial in played.trials if trial.number < count]
        assert sampling.propose(played.spec, known) == sampling.propose(played.spec, list(known))


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "gp"])
def test_what_learns_ends_nearer_to_the_best_than_chance(sampler: str) -> None:
    def found(kind: str) -> float:
        played = Played(spec(kind, trials=40, space=NUMBERS))
        played.play()
        late = [abs(float(trial.values["x"]) - 0.7) for trial in played.trials[25:]]
        return sum(late) / len(late)

    assert found(sampler) < found("random")


def test_a_grid_is_tried_whole_and_once() -> None:
    few = [Parameter("x", Range(0, 1, step=0.5)), Parameter("kind", Choice(("a", "b"))), SPACE[4]]
    played = Played(spec("grid", trials=500, space=few))
    played.play()
    seen = [tuple(trial.values.items()) for trial in played.trials]
    assert len(seen) == len(set(seen)) == 3 * (1 + 5)


def test_halving_pauses_the_worse_and_takes_up_again_what_turned_out_good() -> None:
    played = Played(spec("random", "asha", trials=27))
    played.play()
    assert played.sweep.state is State.SUCCEEDED
    whole = [trial for trial in played.trials if trial.state is TrialState.SUCCEEDED]
    assert 2 <= len(whole) <= 6
    assert sum(played.reports.values()) <= 0.5 * 27 * 9
    best = max(played.trials, key=lambda trial: score(trial.values, 9))
    assert rules.best(played.spec, played.trials)[0].number == best.number
    assert any(segment > 1 for _, segment in played.made)
    # Nothing is done twice: a run that was taken up again went on where it stood.
    assert all(played.reports[trial.number] <= 9 for trial in played.trials)


@pytest.mark.parametrize("pruner", ["asha", "hyperband", "median"])
def test_every_pruner_saves_reports_and_keeps_the_best(pruner: str) -> None:
    played = Played(spec("random", pruner, trials=40))
    played.play()
    assert sum(played.reports.values()) < 0.8 * 40 * 9
    best = max(score(trial.values, 9) for trial in played.trials)
    assert rules.best(played.spec, played.trials)[0].scores[0] >= best - 0.02


def test_hyperband_deals_trials_to_brackets_that_look_at_different_times() -> None:
    pruner = Pruner("hyperband", first=1, reduction=3, last=9)
    assert halving.brackets(pruner) == 2
    first = {tuple(halving.looks(pruner, number, 9)) for number in range(12)}
    assert first == {(1, 3), (3,)}


def test_a_population_replaces_its_worst_by_what_is_better() -> None:
    played = Played(spec("population", trials=8), length=12)
    played.sweep = replace(played.sweep, spec=replace(played.spec, parallelism=8))
    played.play()
    assert len(played.trials) == 5  # the size of the population
    taken_over = [trial for trial in played.trials if "source" in trial.attributes]
    assert taken_over
    assert all(trial.runs > 1 for trial in taken_over)


def test_a_sweep_with_several_objectives_ends_with_those_that_no_other_beats() -> None:
    two = [MAX, Objective("cost", maximize=False)]

    def trial(number: int, *scores: float) -> Trial:
        return Trial(number, {"x": 0.1}, TrialState.SUCCEEDED, NOW, scores=scores)

    known = [trial(0, 0.9, 5), trial(1, 0.8, 1), trial(2, 0.8, 2), trial(3, 0.95, 9), trial(4, 0.9, 5)]
    found = rules.best(spec(objectives=two), known)
    assert [each.number for each in found] == [3, 0, 4, 1]


def test_cancelling_stops_what_runs_and_ends_what_is_paused() -> None:
    played = Played(spec("random", "asha"))
    for _ in range(4):
        played.tick()
    assert any(trial.state is TrialState.PAUSED for trial in played.trials)
    played.sweep = cancel(played.sweep)
    played.play(5)
    assert played.sweep.state is State.CANCELLED
    assert {trial.state for trial in played.trials} <= TRIAL_FINAL
    assert cancel(played.sweep) is played.sweep


def test_when_the_time_is_up_what_runs_is_stopped_and_counts_as_far_as_it_came() -> None:
    played = Played(spec(budget={"time": timedelta(minutes=5)}))
    for _ in range(4):
        played.tick()
    played.now = NOW + timedelta(minutes=6)
    played.play(3)
    assert played.sweep.state is State.SUCCEEDED
    assert played.sweep.reason == "BUDGET_SPENT"
    assert {trial.state for trial in played.trials} == {TrialState.PRUNED}
    assert rules.best(played.spec, played.trials)


def test_when_the_steps_are_spent_nothing_more_is_started() -> None:
    played = Played(spec(budget={"steps": 30}))
    played.play()
    assert 30 <= sum(trial.steps for trial in played.trials) <= 30 + 3 * 9


def test_a_sweep_of_failures_ends_early_and_says_why() -> None:
    played = Played(spec(), fails=lambda number: True)
    played.play()
    assert played.sweep.state is State.FAILED
    assert len(played.trials) < 20


def test_one_failure_does_no_harm() -> None:
    played = Played(spec(), fails=lambda number: number == 2)
    played.play()
    assert played.sweep.state is State.SUCCEEDED
    assert played.trials[2].state is TrialState.FAILED


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), trials=st.integers(1, 12), pruner=st.sampled_from(rules.PRUNERS))
def test_a_service_that_is_killed_at_any_moment_makes_no_run_twice(
    seed: int, trials: int, pruner: str
) -> None:
    """A decision is stored whole or not at all: one that was lost is made again, and is the same."""
    rng = Random(seed)
    kept, lossy = (Played(spec("random", pruner, trials)) for _ in range(2))
    for _ in range(400):
        if lossy.sweep.state in rules.FINAL:
            break
        if rng.random() < 0.3:  # decides, and is killed before it is stored
            views = {t.number: lossy.view(t) for t in lossy.trials if t.state in UNDER_WAY}
            advance(lossy.sweep, lossy.trials, views, None, lossy.now, sampling.propose)
        lossy.tick()
    kept.play()
    assert lossy.made == kept.made
    assert len(lossy.made) == len(set(lossy.made))


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (spec("tpw"), "sampler.kind"),
        (spec("cmaes", space=[SPACE[3]]), "sampler.kind"),
        (spec("gp", objectives=[MAX, MAX]), "sampler.kind"),
        (spec("population", "asha"), "pruner.kind"),
        (spec(trials=0), "budget.trials"),
        (spec(space=[SPACE[4]]), "parameters[0].when"),
        (spec(space=[Parameter("x", Range(2, 1))]), "parameters[0].low"),
        (spec(space=[Parameter("x", Range(0, 1, log=True))]), "parameters[0].low"),
        (spec(space=[]), "parameters"),
        (spec(objectives=[]), "objectives"),
    ],
)
def test_what_cannot_be_searched_is_refused_by_its_field(wrong: SweepSpec, field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        rules.check(wrong)
    assert f"sweep.spec.{field}" in refused.value.fields


@given(share=st.floats(0, 1), index=st.integers(0, 2))
def test_a_value_comes_back_from_its_share(share: float, index: int) -> None:
    domain = SPACE[index].domain
    assert isinstance(domain, Range)
    value = domain.at(share)
    assert domain.low <= value <= domain.high
    assert domain.at(domain.share(float(value))) == pytest.approx(value)


def test_the_report_is_one_file_without_a_script_and_says_what_mattered() -> None:
    played = Played(spec("tpe", trials=20, objectives=[MAX, Objective("cost", maximize=False)]))
    played.play()
    html = report.html(played.sweep, played.trials)
    assert html.count("<svg") == 4
    assert "<script" not in html
    assert "Pareto" in html
    assert report.importance(played.sweep, played.trials)[0][0] == "x"


def test_names_in_the_report_are_text() -> None:
    played = Played(spec(objectives=[Objective("<b>")], trials=3))
    played.play()
    assert "<b>&lt;" not in report.html(played.sweep, played.trials)
    assert "<b>" not in report.html(played.sweep, played.trials)


def test_a_space_is_drawn_evenly() -> None:
    drawn = [space.drawn(SPACE, Random(seed)) for seed in range(300)]
    assert {each["kind"] for each in drawn} == {"a", "b", True}
    assert sum(float(each["rate"]) < 10**-2.5 for each in drawn) == pytest.approx(150, abs=40)
