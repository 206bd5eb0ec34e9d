"""Population based training: the worst take over the weights of the best, and try settings near theirs. Pure.

Every `interval` reports a member is compared with the newest values of all others. One of the worst `quantile` goes
on from the newest checkpoint of a random one of the best, with its hyperparameters changed a little. Source:
Jaderberg et al. 2017, without waiting for each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from services.trainer.sweeps.rules import SweepSpec, Trial, TrialState
from services.trainer.sweeps.space import Value

_IN = (TrialState.RUNNING, TrialState.SUCCEEDED)


@dataclass(frozen=True)
class Exploit:
    """Go on from another's checkpoint with these values."""

    source: int
    values: dict[str, Value]


def size(spec: SweepSpec) -> int:
    """Members."""
    return min(spec.sampler.startup, spec.budget.trials)


def looks(spec: SweepSpec, reports: int) -> list[int]:
    """Numbers of reports at which a member is compared, up to `reports`."""
    return list(range(spec.sampler.interval, reports + 1, spec.sampler.interval))


def exploit(spec: SweepSpec, member: Trial, trials: Sequence[Trial]) -> Exploit | None:
    """What a member does that has reached a look; None where it is good enough to go on as it is."""
    better = spec.objectives[0].better
    known = [trial for trial in trials if trial.state in _IN and trial.looks]
    count = int(len(known) * spec.sampler.quantile)
    if count < 1:
        return None
    order = sorted(known, key=lambda trial: (better(_newest(trial)), trial.number))
    if member.number not in {trial.number for trial in order[:count]}:
        return None
    rng = Random(f"{spec.sampler.seed}/{member.number}/{member.runs}")
    source = rng.choice(order[-count:])
    values = dict(source.values)
    for parameter in spec.space:
        if parameter.name in values:
            values[parameter.name] = parameter.domain.changed(values[parameter.name], rng)
    return Exploit(source.number, values)


def _newest(trial: Trial) -> float:
    return trial.looks[max(trial.looks)]
