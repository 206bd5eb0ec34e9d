"""Covariance matrix adaptation: generations of points around a mean that moves to where they were good.

The generations are replayed from the stored trials with the `cmaes` package. Source: Hansen 2016.
"""

from collections.abc import Sequence
from random import Random

import numpy as np
from cmaes import CMA  # type: ignore[import-untyped]
from numpy.typing import NDArray

from services.trainer.sweeps import space
from services.trainer.sweeps.rules import Proposal, SweepSpec, Trial, TrialState
from services.trainer.sweeps.space import Parameter, Range

Array = NDArray[np.float64]
_GENERATION = "generation"


def propose(spec: SweepSpec, trials: Sequence[Trial], rng: Random) -> Proposal:
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
