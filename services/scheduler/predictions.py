"""When waiting jobs were told to start, and what became of that: later ones are told wider spans for it.

In memory alone: a scheduler that starts again has forgotten it, and tells what it would have at first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from aios.names import JobName
from services.scheduler.engine.calibrate import Calibration
from services.scheduler.engine.forecast import Basis, Forecast
from services.scheduler.explain import Explanation
from services.scheduler.policies import ALGORITHMS


class Predictions:
    """Of each policy its own, for each is wrong in its own way."""

    def __init__(self) -> None:
        self._of = {name: Calibration(preempts=each.preempts) for name, each in ALGORITHMS.items()}

    def open(self, algorithm: str) -> Sequence[JobName]:
        """Jobs that were told something under this policy and have not been seen to start."""
        return [JobName.parse(name) for name in self._of[algorithm].open]

    def started(self, algorithm: str, starts: Mapping[JobName, Sequence[datetime]]) -> None:
        """When these jobs started, each time; one without a mention is gone."""
        for name in self.open(algorithm):
            moments = [each.timestamp() for each in starts[name]] if name in starts else None
            self._of[algorithm].started(str(name), moments)

    def widened(self, algorithm: str, found: Explanation, now: datetime) -> Explanation:
        """The explanation with a span that is as wide as earlier ones had to be."""
        if (told := found.prediction) is None:
            return found
        drawn = Forecast(
            told.start.timestamp(),
            told.earliest.timestamp(),
            None if told.latest is None else told.latest.timestamp(),
            Basis[told.basis],
        )
        self._of[algorithm].told(str(found.job.name), now.timestamp(), drawn)
        wide = self._of[algorithm].widened(now.timestamp(), drawn)
        assert wide.earliest is not None
        prediction = replace(
            told,
            earliest=datetime.fromtimestamp(wide.earliest, UTC),
            latest=None if wide.latest is None else datetime.fromtimestamp(wide.latest, UTC),
        )
        return replace(found, prediction=prediction)
