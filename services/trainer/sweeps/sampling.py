"""The next trial's hyperparameters, as a pure function of the seed and of the trials so far.

Nothing is kept between two calls: a study is made anew from the stored trials, and each trial has a random generator
of its own, by the sweep's seed and its number. So a service that was killed proposes what it would have proposed.

`tpe` and `nsga2` are Optuna's, asked and told (Akiba et al. 2019; Bergstra et al. 2011; Deb et al. 2002). `cmaes`
replays the generations with the `cmaes` package (Hansen 2016). `gp` is ours: a Gaussian process with a Matérn 5/2
kernel whose length is chosen by likelihood, and expected improvement (Snoek et al. 2012); no torch.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from types import MappingProxyType
from typing import Any

import numpy as np
import optuna
from cmaes import CMA  # type: ignore[import-untyped]
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.trial import FrozenTrial, create_trial

from services.trainer.sweeps import space
from services.trainer.sweeps.rules import SweepSpec, Trial, TrialState
from services.trainer.sweeps.space import Parameter, Range, Value

optuna.logging.set_verbosity(optuna.logging.WARNING)

Array = NDArray[np.float64]
CANDIDATES, NEAR = 1_000, 200  # points at which the improvement is looked at: anywhere, and around the best
LENGTHS = (0.1, 0.2, 0.3, 0.5, 0.8, 1.3, 2.0)  # of the kernel, in shares of the domain
NOISES = (1e-4, 1e-2, 1e-1)
_STATES = {
    TrialState.SUCCEEDED: optuna.trial.TrialState.COMPLETE,
    TrialState.PRUNED: optuna.trial.TrialState.PRUNED,
    TrialState.PAUSED: optuna.trial.TrialState.PRUNED,
    TrialState.FAILED: optuna.trial.TrialState.FAIL,
    TrialState.CANCELLED: optuna.trial.TrialState.FAIL,
}
_GENERATION = "generation"


@dataclass(frozen=True)
class Proposal:
    """What a new trial tries, and what its sampler must know of it again."""

    values: Mapping[str, Value]
    attributes: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


def propose(spec: SweepSpec, trials: Sequence[Trial]) -> Proposal | None:
    """The next trial; None where a grid has been tried whole.

    Args:
        trials: All there are, by number.
    """
    kind, number = spec.sampler.kind, len(trials)
    rng = Random(f"{spec.sampler.seed}/{number}")
    if kind == "grid":
        points = space.grid(spec.space)
        return Proposal(points[number]) if number < len(points) else None
    if kind in ("random", "population"):
        return Proposal(space.drawn(spec.space, rng))
    if kind == "cmaes":
        return _cmaes(spec, trials, rng)
    if kind == "gp":
        return _gaussian_process(spec, trials, rng)
    return _asked(spec, trials, rng)


def _asked(spec: SweepSpec, trials: Sequence[Trial], rng: Random) -> Proposal:
    """By one of Optuna's samplers."""
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
    return value if isinstance(parameter.domain, Range) else _index(parameter.domain.values, value)


def _index(values: Sequence[Value], value: Value) -> int:
    return next(at for at, each in enumerate(values) if type(each) is type(value) and each == value)


def _cmaes(spec: SweepSpec, trials: Sequence[Trial], rng: Random) -> Proposal:
    """Covariance matrix adaptation over the ranges; choices are drawn."""
    ranges = [parameter for parameter in spec.space if isinstance(parameter.domain, Range)]
    size = len(ranges)
    seed = spec.sampler.seed % 2**32
    bounds = np.tile([0.0, 1.0], (size, 1))
    # One dimension more where there is one alone: the package's update divides by the number of the others.
    optimizer = CMA(np.full(max(2, size), 0.5), 1 / 6, _padded(bounds), seed=seed, population_size=None)
    generation = 0
    while True:
        of_it = [
            trial
            for trial in trials
            if trial.attributes.get(_GENERATION) == generation
            and trial.state in (TrialState.SUCCEEDED, TrialState.PRUNED)
            and trial.scores
        ]
        if len(of_it) < optimizer.population_size:
            break
        # Those that ended first: which ones they are does not change when more of the generation end.
        of_it.sort(key=lambda trial: (trial.end_time or trial.create_time, trial.number))
        objective = spec.objectives[0]
        optimizer.tell(
            [
                (_padded_point(_shares(ranges, trial)), -objective.better(trial.scores[0]))
                for trial in of_it[: optimizer.population_size]
            ]
        )
        generation += 1
    optimizer.reseed_rng(rng.randrange(2**32))
    point = iter(optimizer.ask()[:size])
    shares = [
        float(next(point)) if isinstance(parameter.domain, Range) else rng.random()
        for parameter in spec.space
    ]
    return Proposal(space.from_shares(spec.space, shares), {_GENERATION: generation})


def _padded(bounds: Array) -> Array:
    return bounds if len(bounds) > 1 else np.vstack([bounds, [[0.0, 1.0]]])


def _padded_point(point: Array) -> Array:
    return point if len(point) > 1 else np.append(point, 0.5)


def _shares(ranges: Sequence[Parameter], trial: Trial) -> Array:
    """A trial as a point of the unit cube of the ranges; the middle for those that it does not have."""
    return np.array([_share(parameter, trial) for parameter in ranges])


def _share(parameter: Parameter, trial: Trial) -> float:
    value = trial.values.get(parameter.name)
    if value is None or not isinstance(parameter.domain, Range):
        return 0.5
    return parameter.domain.share(float(value))


def _gaussian_process(spec: SweepSpec, trials: Sequence[Trial], rng: Random) -> Proposal:
    """The point with the greatest expected improvement. Trials under way count as if they gave what is expected."""
    known = [trial for trial in trials if trial.scores and trial.state is not TrialState.FAILED]
    if len(known) < spec.sampler.startup:
        return Proposal(space.drawn(spec.space, rng))
    objective = spec.objectives[0]
    x_ND = np.array([_coordinates(spec, trial) for trial in known])
    y_N = np.array([objective.better(trial.scores[0]) for trial in known])
    y_N = (y_N - y_N.mean()) / (y_N.std() or 1.0)
    numbers = np.random.default_rng(rng.randrange(2**32))
    drawn = numbers.random((CANDIDATES, len(spec.space)))
    top = np.array([_cube(spec, known[int(y_N.argmax())])])
    near = np.clip(top + numbers.normal(0, 0.1, (NEAR, len(spec.space))), 0, 1)
    options = [space.from_shares(spec.space, row.tolist()) for row in np.vstack([drawn, near])]
    options_KD = np.array([_encoded(spec, values) for values in options])
    length, noise = _fitted(x_ND, y_N)
    under_way = [trial for trial in trials if not trial.scores and trial.state is TrialState.RUNNING]
    if under_way:
        waiting = np.array([_coordinates(spec, trial) for trial in under_way])
        mean, _ = _posterior(x_ND, y_N, waiting, length, noise)
        x_ND, y_N = np.vstack([x_ND, waiting]), np.concatenate([y_N, mean])
    mean, deviation = _posterior(x_ND, y_N, options_KD, length, noise)
    gain = (mean - y_N.max()) / deviation
    density = np.exp(-(gain**2) / 2) / math.sqrt(2 * math.pi)
    below = np.array([0.5 * (1 + math.erf(each / math.sqrt(2))) for each in gain])
    return Proposal(options[int(np.argmax(deviation * (gain * below + density)))])


def _coordinates(spec: SweepSpec, trial: Trial) -> list[float]:
    return _encoded(spec, trial.values)


def _encoded(spec: SweepSpec, values: Mapping[str, Value]) -> list[float]:
    """Ranges as shares, choices as one coordinate per value; what does not exist is in the middle."""
    found: list[float] = []
    for parameter in spec.space:
        value = values.get(parameter.name)
        if isinstance(parameter.domain, Range):
            found.append(0.5 if value is None else parameter.domain.share(float(value)))
        else:
            chosen = None if value is None else _index(parameter.domain.values, value)
            found += [float(at == chosen) for at in range(len(parameter.domain.values))]
    return found


def _cube(spec: SweepSpec, trial: Trial) -> list[float]:
    """A trial as a point of the whole unit cube."""
    found = []
    for parameter in spec.space:
        value, domain = trial.values.get(parameter.name), parameter.domain
        if value is None:
            found.append(0.5)
        elif isinstance(domain, Range):
            found.append(domain.share(float(value)))
        else:
            found.append((_index(domain.values, value) + 0.5) / len(domain.values))
    return found


def _fitted(x_ND: Array, y_N: Array) -> tuple[float, float]:
    """Length and noise of the greatest likelihood."""
    best, found = -math.inf, (LENGTHS[3], NOISES[1])
    for length in LENGTHS:
        kernel = _matern(x_ND, x_ND, length)
        for noise in NOISES:
            lower = np.linalg.cholesky(kernel + noise * np.eye(len(x_ND)))
            solved = np.linalg.solve(lower, y_N)
            likelihood = float(-(solved @ solved) / 2 - np.log(np.diag(lower)).sum())
            if likelihood > best:
                best, found = likelihood, (length, noise)
    return found


def _posterior(x_ND: Array, y_N: Array, at_KD: Array, length: float, noise: float) -> tuple[Array, Array]:
    lower = np.linalg.cholesky(_matern(x_ND, x_ND, length) + noise * np.eye(len(x_ND)))
    across = np.linalg.solve(lower, _matern(x_ND, at_KD, length))
    mean: Array = across.T @ np.linalg.solve(lower, y_N)
    deviation: Array = np.sqrt(np.maximum(1e-12, 1 - (across**2).sum(axis=0)))
    return mean, deviation


def _matern(a_ND: Array, b_KD: Array, length: float) -> Array:
    squares = (a_ND**2).sum(1)[:, None] + (b_KD**2).sum(1)[None, :] - 2 * a_ND @ b_KD.T
    r = math.sqrt(5) * np.sqrt(np.maximum(squares, 0)) / length
    kernel: Array = (1 + r + r**2 / 3) * np.exp(-r)
    return kernel
