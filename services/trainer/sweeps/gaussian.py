"""A Gaussian process: the next trial is where the expected improvement is greatest. Source: Snoek et al. 2012.

The kernel is Matérn 5/2 with one length, which is chosen with the noise by likelihood. Trials under way count as if
they gave what is expected of them. numpy alone.

Shapes: N known trials, K candidates, D coordinates.
"""

import math
from collections.abc import Mapping, Sequence
from random import Random

import numpy as np
from numpy.typing import NDArray

from services.trainer.sweeps import space
from services.trainer.sweeps.rules import Proposal, SweepSpec, Trial, TrialState
from services.trainer.sweeps.space import Range, Value

Array = NDArray[np.float64]
CANDIDATES, NEAR = 1_000, 200  # points at which the improvement is looked at: anywhere, and around the best
LENGTHS = (0.1, 0.2, 0.3, 0.5, 0.8, 1.3, 2.0)  # of the kernel, in shares of the domain
NOISES = (1e-4, 1e-2, 1e-1)


def propose(spec: SweepSpec, trials: Sequence[Trial], rng: Random) -> Proposal:
    """The next trial; random ones first."""
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
            chosen = None if value is None else parameter.domain.index(value)
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
            found.append((domain.index(value) + 0.5) / len(domain.values))
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
