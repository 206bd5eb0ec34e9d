"""What the scheduler is told of a job's progress, and when: now and then, with the speed of late."""

from collections import deque
from dataclasses import dataclass, field

from aios.scheduler.v1 import job_pb2

TELL_SECONDS = 5.0  # the scheduler plans with it; a job runs for minutes at least
SAMPLES = 12  # a minute: speeds change with the batch size, and a checkpoint is no lasting slowness


@dataclass
class Pace:
    """Steps over time, as one thread sees them.

    Attributes:
        restored_step: What the attempt went on from.
        saved_step: Of the newest checkpoint.
        minds_stops: The script asks whether to stop.
    """

    restored_step: int = 0
    saved_step: int = 0
    minds_stops: bool = False
    _samples: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=SAMPLES))

    def restored(self, step: int) -> None:
        """The attempt goes on from that checkpoint."""
        self.restored_step = self.saved_step = step

    def due(self, now: float) -> bool:
        """Whether it is time to tell. `now` is in seconds, on any clock that never goes back."""
        return not self._samples or now - self._samples[-1][0] >= TELL_SECONDS

    def at(self, step: int, total_steps: int, now: float) -> job_pb2.JobProgress:
        """What to tell at that step."""
        self._samples.append((now, step))
        (since, first), seconds = self._samples[0], now - self._samples[0][0]
        return job_pb2.JobProgress(
            step=step,
            total_steps=total_steps,
            steps_per_second=max(0, step - first) / seconds if now > since else 0.0,
            saved_step=self.saved_step,
            restored_step=self.restored_step,
            # It has shown that it can save, or asks when to.
            saves=self.minds_stops or self.saved_step > 0,
        )
