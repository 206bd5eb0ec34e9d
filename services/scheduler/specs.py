"""What a job asks for, and what may be asked. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from types import MappingProxyType

from aios import scheduling
from aios.config import variable_of
from aios.errors import InvalidArgument
from aios.names import DatasetVersionName
from aios.scheduling import NOTHING_SAID, PRIORITY_MAX, Scheduling
from services.scheduler.attempts import RENDEZVOUS
from services.scheduler.resources import Resources

STOP_GRACE = timedelta(seconds=10)
"""Between SIGTERM and SIGKILL where the spec says nothing: enough to write a checkpoint of a small model."""
STOP_GRACE_MAX = timedelta(hours=1)
ARGUMENTS_MAX = 1024
ARGUMENT_BYTES_MAX = 128 * 1024  # Linux takes no longer one
SPEC_BYTES_MAX = 256 * 1024  # command and environment together: a spec passes through every event
ENVIRONMENT_MAX = 256
PORTS_MAX = 16
RESTARTS_MAX = 1000
REPLICAS_MAX = 1024
"""Of a gang: a step stores and announces each of them."""

OF_SERVICES = frozenset({variable_of("ray_address")})
"""Variables of the platform that one of its services may set for a job."""

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_PORT = re.compile(r"[a-z][a-z0-9_]{0,31}")


class Kind(StrEnum):
    """How an exit is treated: a BATCH job runs to an end, a SERVICE until it is cancelled."""

    BATCH = "BATCH"
    SERVICE = "SERVICE"


@dataclass(frozen=True)
class JobSpec:
    """What to run and what it needs."""

    command: tuple[str, ...]
    resources: Resources
    kind: Kind = Kind.BATCH
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    ports: tuple[str, ...] = ()
    max_restarts: int = 0
    stop_grace: timedelta = STOP_GRACE
    owner: str = ""
    priority: int = 0
    queue: str = ""
    """That it is counted in; the project's own when empty."""
    scheduling: Scheduling = NOTHING_SAID
    node_network: bool = False
    """Its processes have the network of their node."""
    replicas: int = 1
    """Size of a gang."""
    min_replicas: int = 0
    """Of an elastic gang, how few it may run with; 0 where it has one size."""
    requirements: str = ""
    """Dataset version with the lock of its packages; empty where it has none of its own."""

    @property
    def total(self) -> Resources:
        """What all replicas take together."""
        return self.resources.times(self.replicas)


def check(spec: JobSpec, field: str = "job.spec", *, by_service: bool = False) -> JobSpec:
    """Return the spec if a node could run it as written.

    Args:
        by_service: Whether a service of the platform asks. It alone may say what a job works for, which other services
            take its word for, and send it to a cluster of the operator's.

    Raises:
        InvalidArgument: with every wrong field under `field` and what to change.
    """
    wrong = {f"{field}.{path}": problem for path, problem in _problems(spec, by_service)}
    if wrong:
        raise InvalidArgument.of_all(wrong)
    return spec


def _problems(spec: JobSpec, by_service: bool) -> list[tuple[str, str]]:
    said = [(f"scheduling.{path}", problem) for path, problem in scheduling.problems(spec.scheduling)]
    return [
        *_command(spec),
        *_environment(spec, by_service),
        *_resources(spec.resources, spec.replicas),
        *_rest(spec),
        *_owner(spec, by_service),
        *said,
    ]


def _command(spec: JobSpec) -> list[tuple[str, str]]:
    if not spec.command or not spec.command[0]:
        return [("command", "must name a program")]
    if len(spec.command) > ARGUMENTS_MAX:
        return [("command", f"has {len(spec.command)} arguments; {ARGUMENTS_MAX} at most")]
    return [
        (f"command[{n}]", f"must be at most {ARGUMENT_BYTES_MAX} bytes without NUL")
        for n, word in enumerate(spec.command)
        if "\0" in word or len(word.encode()) > ARGUMENT_BYTES_MAX
    ]


def _environment(spec: JobSpec, by_service: bool) -> list[tuple[str, str]]:
    found = []
    if len(spec.environment) > ENVIRONMENT_MAX:
        found.append(("environment", f"has {len(spec.environment)} variables; {ENVIRONMENT_MAX} at most"))
    for name, value in spec.environment.items():
        path = f"environment[{name[:80]!r}]"
        if not _VARIABLE.fullmatch(name):
            found.append((path, "must be a name of letters, digits and underscores"))
        elif by_service and name in OF_SERVICES:
            continue
        elif name.startswith("AIOS_") and not name.startswith("AIOS_JOB_"):
            found.append((path, "is set by the node; use a name that starts with AIOS_JOB_"))
        elif "\0" in value:
            found.append((path, "must have no NUL in its value"))
    size = sum(len(text.encode()) for text in (*spec.command, *spec.environment, *spec.environment.values()))
    if size > SPEC_BYTES_MAX:
        found.append(("environment", f"and command take {size} bytes together; {SPEC_BYTES_MAX} at most"))
    return found


def _resources(asked: Resources, replicas: int) -> list[tuple[str, str]]:
    found = []
    if asked.cpu_millis < 1:
        found.append(("resources.cpu_millis", "must be at least 1: thousandths of a core"))
    if asked.memory_bytes < 0:
        found.append(("resources.memory_bytes", "must not be negative"))
    wrong = scheduling.accelerator_problems(
        asked.accelerators, asked.accelerator_millis, asked.device_memory, replicas
    )
    found += [(f"resources.{path}", problem) for path, problem in wrong]
    found += [(f"resources.{path}", problem) for path, problem in scheduling.budget_problems(asked.budgets)]
    families = [kind for kind in asked.accelerators if "/" not in kind]
    if len(families) > 1:
        found.append(("resources.accelerators", f"name at most one family without its type, not {families}"))
    if asked.shared_device:
        found.append(("resources.shared_device", "is for the scheduler to choose: leave it out"))
    return found


def _rest(spec: JobSpec) -> list[tuple[str, str]]:
    found = []
    if len(set(spec.ports)) != len(spec.ports) or len(spec.ports) > PORTS_MAX:
        found.append(("ports", f"must be at most {PORTS_MAX} different names"))
    found += [
        (f"ports[{n}]", "must be a lower-case name of letters, digits and underscores")
        for n, name in enumerate(spec.ports)
        if not _PORT.fullmatch(name)
    ]
    if not 1 <= spec.replicas <= REPLICAS_MAX:
        found.append(("replicas", f"must be 1 to {REPLICAS_MAX}"))
    elif spec.replicas > 1 and spec.kind is Kind.SERVICE:
        found.append(("replicas", "must be 1: the replicas of a service are jobs of their own"))
    elif not 0 <= spec.min_replicas <= spec.replicas:
        found.append(("min_replicas", f"must be 0, or 1 to {spec.replicas}: no more than `replicas`"))
    if RENDEZVOUS in spec.ports and spec.replicas > 1:
        found.append(("ports", f"must not have {RENDEZVOUS!r}: a gang has that one"))
    if not 0 <= spec.max_restarts <= RESTARTS_MAX:
        found.append(("max_restarts", f"must be 0 to {RESTARTS_MAX}"))
    if not timedelta() <= spec.stop_grace <= STOP_GRACE_MAX:
        found.append(("stop_grace", f"must be 0 to {STOP_GRACE_MAX.total_seconds():g} s"))
    if abs(spec.priority) > PRIORITY_MAX:
        found.append(("priority", f"must be {-PRIORITY_MAX} to {PRIORITY_MAX}"))
    if spec.requirements and not DatasetVersionName.matches(spec.requirements):
        found.append(("requirements", "must be projects/{project}/datasets/{dataset}/versions/{version}"))
    return found


def _owner(spec: JobSpec, by_service: bool) -> list[tuple[str, str]]:
    if spec.owner and not by_service:
        return [("owner", "is said by the platform's services alone: leave it out")]
    if len(spec.owner) > 512:
        return [("owner", "must be a resource name of at most 512 characters")]
    return []
