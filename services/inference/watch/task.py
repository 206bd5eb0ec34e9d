"""What a job of explanation is asked for, as JSON in its environment. The service writes it, the job reads it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

VARIABLE = "AIOS_JOB_EXPLANATION"


@dataclass(frozen=True)
class Task:
    """One explanation."""

    name: str
    """`projects/{project}/deployments/{deployment}/explanations/{explanation}`."""
    trace_id: str
    request_id: str
    instance: int
    method: str
    target: str
    versions: Sequence[str]
    """Dataset versions of kept predictions, newest first."""
    models: Mapping[str, str]
    """Model version of each revision that they may be of."""

    def to_json(self) -> dict[str, Any]:
        """For the environment of its job."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Task":
        """Read `to_json`."""
        return cls(**stored)
