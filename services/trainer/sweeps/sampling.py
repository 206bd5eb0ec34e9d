"""The next trial's hyperparameters, as a pure function of the seed and of the trials so far.

Nothing is kept between two calls: what a sampler learns it learns anew from the stored trials, and each trial has a
random generator of its own, by the sweep's seed and its number. So a service that was killed proposes what it would
have proposed.
"""

from collections.abc import Sequence
from random import Random

from services.trainer.sweeps import space
from services.trainer.sweeps.rules import Proposal, SweepSpec, Trial


def propose(spec: SweepSpec, trials: Sequence[Trial]) -> Proposal | None:
    """The next trial; None where a grid has been tried whole.

    Args:
        trials: All there are, by number.
    """
    kind, number = spec.sampler.kind, len(trials)
    rng = Random(f"{spec.sampler.seed}/{number}")
    if number < len(spec.first):
        return Proposal(space.completed(spec.space, spec.first[number], rng))
    if kind == "grid":
        points, at = space.grid(spec.space), number - len(spec.first)
        return Proposal(points[at]) if at < len(points) else None
    if kind in ("random", "population"):
        return Proposal(space.drawn(spec.space, rng))
    # The libraries take 60 MB: a service without such a sweep does not load them.
    if kind == "cmaes":
        from services.trainer.sweeps import evolution

        return evolution.propose(spec, trials, rng)
    if kind == "gp":
        from services.trainer.sweeps import gaussian

        return gaussian.propose(spec, trials, rng)
    from services.trainer.sweeps import asked

    return asked.propose(spec, trials, rng)
