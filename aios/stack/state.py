"""`stack.json`: what the supervisor tells other processes, and its successor."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from aios.stack.child import State


@dataclass(frozen=True)
class ServiceState:
    """One process as it was at the last change."""

    state: State
    pid: int = 0
    start_ticks: int = 0
    """With the pid, names one process for ever: pids are used again."""
    restarts: int = 0
    message: str = ""


@dataclass(frozen=True)
class StackState:
    """All of them."""

    address: str = ""
    """The public door."""
    ports: Mapping[str, int] = field(default_factory=dict)
    pid: int = 0
    """The supervisor."""
    message: str = ""
    """Why it could not start, if it could not."""
    services: Mapping[str, ServiceState] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Everything answers. A task may still run."""
        wanted = (State.READY, State.DONE)
        return bool(self.services) and all(
            one.state in wanted for name, one in self.services.items() if name not in TASKS
        )


TASKS = frozenset({"triton"})
"""What `aios up` does not wait for."""


def read(path: Path) -> StackState:
    """The last state written; an empty one where there is none."""
    try:
        raw = json.loads(path.read_text())
        services = {name: ServiceState(**one) for name, one in raw.pop("services").items()}
        services = {
            name: ServiceState(**{**asdict(one), "state": State(one.state)}) for name, one in services.items()
        }
        return StackState(**raw, services=services)
    except (OSError, ValueError, KeyError, TypeError):
        return StackState()


def to_json(state: StackState) -> str:
    return json.dumps(asdict(state), indent=2)
