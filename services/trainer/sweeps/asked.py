"""Optuna's samplers, asked for one trial: a study is made in memory from the stored trials, and forgotten.

`tpe`: Bergstra et al. 2011, with several parameters and objectives as Watanabe 2023 tells. `nsga2`: Deb et al. 2002.
"""

import json
import math
from collections.abc import Mapping, Sequence
from random import Random

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.trial import FrozenTrial, create_trial

from services.trainer.sweeps.rules import Proposal, SweepSpec, Trial, TrialState
from services.trainer.sweeps.space import Parameter, Range, Value

optuna.logging.set_verbosity(optuna.logging.WARNING)

_STATES = {
    TrialState.SUCCEEDED: optuna.trial.TrialState.COMPLETE,
    TrialState.PRUNED: optuna.trial.TrialState.PRUNED,
    TrialState.PAUSED: optuna.trial.TrialState.PRUNED,
    TrialState.FAILED: optuna.trial.TrialState.FAIL,
    TrialState.CANCELLED: optuna.trial.TrialState.FAIL,
}


def propose(spec: SweepSpec, trials: Sequence[Trial], rng: Random) -> Proposal:
    """The next trial."""
    ways = optuna.study.StudyDirection
    directions = [ways.MAXIMIZE if objective.maximize else ways.MINIMIZE for objective in spec.objectives]
    seed = rng.randrange(2**32)
    sampler: BaseSampler
    if spec.sampler.kind == "nsga2":
        sampler = NSGAIISampler(seed=seed, population_size=spec.sampler.startup)
    else:
        sampler = TPESampler(seed=seed, n_startup_trials=spec.sampler.startup)
    study = optuna.create_study(sampler=sampler, directions=directions)
    domains = {parameter.name: _distribution(parameter) for parameter in spec.space}
    study.add_trials([_told(spec, trial, domains) for trial in trials])
    asked = study.ask()
    values: dict[str, Value] = {}
    for parameter in spec.space:
        if parameter.exists(values):
            values[parameter.name] = _suggested(asked, parameter)
    attributes = study.get_trials(deepcopy=False)[-1].system_attrs
    return Proposal(values, json.loads(json.dumps(attributes)))


def _distribution(parameter: Parameter) -> BaseDistribution:
    domain = parameter.domain
    if not isinstance(domain, Range):
        # As numbers: a category may be of a kind that Optuna does not know, and 1 and True would be one.
        return CategoricalDistribution(range(len(domain.values)))
    if domain.whole:
        step = 1 if domain.log else int(domain.step) or 1
        high = domain.high if domain.log else domain.low + (domain.high - domain.low) // step * step
        return IntDistribution(int(domain.low), int(high), log=domain.log, step=step)
    step_or_none = domain.step if domain.step and not domain.log else None
    high = domain.high
    if step_or_none:
        high = domain.low + math.floor((domain.high - domain.low) / step_or_none + 1e-9) * step_or_none
    return FloatDistribution(domain.low, high, log=domain.log, step=step_or_none)


def _suggested(trial: optuna.Trial, parameter: Parameter) -> Value:
    distribution, domain = _distribution(parameter), parameter.domain
    if isinstance(distribution, CategoricalDistribution):
        assert not isinstance(domain, Range)
        return domain.values[int(trial.suggest_categorical(parameter.name, distribution.choices))]  # type: ignore[arg-type]
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(
            parameter.name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(
        parameter.name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
    )


def _told(spec: SweepSpec, trial: Trial, domains: Mapping[str, BaseDistribution]) -> FrozenTrial:
    """A stored trial as Optuna knows one."""
    state = _STATES.get(trial.state, optuna.trial.TrialState.RUNNING)
    scores = list(trial.scores) or None
    looks = dict(trial.looks) if len(spec.objectives) == 1 else {}
    if state is optuna.trial.TrialState.PRUNED and scores and not looks and len(scores) == 1:
        looks = {trial.reports: scores[0]}
    if state is optuna.trial.TrialState.COMPLETE and len(scores or ()) != len(spec.objectives):
        state = optuna.trial.TrialState.FAIL
    named = {parameter.name: parameter for parameter in spec.space}
    return create_trial(
        state=state,
        params={name: _internal(named[name], value) for name, value in trial.values.items()},
        distributions={name: domains[name] for name in trial.values},
        values=scores if state is optuna.trial.TrialState.COMPLETE else None,
        intermediate_values=looks,
        system_attrs=dict(trial.attributes),
    )


def _internal(parameter: Parameter, value: Value) -> Value:
    return value if isinstance(parameter.domain, Range) else parameter.domain.index(value)
