"""A deployment: a model behind a stable name, and the spec that its newest revision was made from. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from difflib import get_close_matches
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from aios.errors import Aborted, AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from aios.names import DeploymentName, ModelVersionName, RevisionName
from aios.scheduling import accelerator_problems, budget_problems
from services.inference import policies
from services.inference.policies import PayloadLog, Rollout, Scaling

ID_LENGTH_MAX = 40  # a replica's job is named after it, with up to 23 characters more
REPLICAS_MAX = 16
CPU_MILLIS, MEMORY_BYTES = 500, 512 * 1024 * 1024
"""Of one replica, where the spec says nothing: a small model answers thousands of requests a second on that."""
BATCH_DELAY_MICROS_MAX = 1_000_000  # a request that waits a second for company is better off alone


class DeploymentNotFound(NotFound):
    """The project has no such deployment. Retrying cannot help."""

    reason = "DEPLOYMENT_NOT_FOUND"


class DeploymentExists(AlreadyExists):
    """The name is taken, perhaps by a deployment that is still being taken down."""

    reason = "DEPLOYMENT_EXISTS"


class DeploymentDeleting(FailedPrecondition):
    """It is being taken down and cannot change any more."""

    reason = "DEPLOYMENT_DELETING"


class EtagMismatch(Aborted):
    """Somebody else changed the spec: read it again, then decide."""

    reason = "ETAG_MISMATCH"


class State(StrEnum):
    """Where a deployment stands."""

    STARTING = "STARTING"
    ASLEEP = "ASLEEP"
    READY = "READY"
    UPDATING = "UPDATING"
    DEGRADED = "DEGRADED"
    DELETING = "DELETING"


EVENT: Mapping[State, str] = MappingProxyType({State.READY: "ready", State.DEGRADED: "degraded"})
"""What is announced when a deployment enters a state; every other change is `updated`."""


class Share(NamedTuple):
    """What one revision gets of the requests, and of their copies, in percent."""

    percent: int
    mirror_percent: int


@dataclass(frozen=True)
class Resources:
    """Of one replica. Thousandths of a core, bytes, whole devices by type or thousandths of one, and bytes of its memory;
    0 is the default amount."""

    cpu_millis: int = 0
    memory_bytes: int = 0
    accelerators: Mapping[str, int] = field(default_factory=dict)
    accelerator_millis: Mapping[str, int] = field(default_factory=dict)
    accelerator_memory_bytes: Mapping[str, int] = field(default_factory=dict)
    budgets: Mapping[str, int] = field(default_factory=dict)
    """Of what else its node has: scratch, network, counters."""


@dataclass(frozen=True)
class Spec:
    """What to serve and how."""

    model_version: str
    """Resource name, with a number for a version once the deployment is accepted."""
    replicas: int = 0
    resources: Resources = field(default_factory=Resources)
    batch_delay_micros: int = 0
    """Longest wait to fill a batch; 0 leaves dynamic batching off."""
    rollout: Rollout = field(default_factory=Rollout)
    scaling: Scaling = field(default_factory=Scaling)
    payload_log: PayloadLog = field(default_factory=PayloadLog)


@dataclass(frozen=True)
class Deployment:
    """A deployment as it stands. `rollout` moves it; its revisions are beside it, not in it."""

    name: DeploymentName
    spec: Spec
    latest: int
    """Number of the newest revision. Numbers go on where a deleted deployment of the same name stopped."""
    create_time: datetime
    update_time: datetime
    state: State = State.STARTING
    message: str = ""
    live: int | None = None
    """Number of the revision that answers."""
    paused: bool = False
    """Whether trials wait to be promoted."""
    shares: Mapping[int, Share] = field(default_factory=dict)
    """Who gets which share of the requests, by number of the revision."""
    reason: str = ""
    """Why the requests are shared so."""

    @property
    def etag(self) -> str:
        """Changes with the spec, not with the state: a rollout under way makes nobody's edit stale."""
        return str(self.latest)

    def revision(self, number: int) -> RevisionName:
        """The name of one of its revisions."""
        return RevisionName(self.name.project, self.name.deployment, str(number))


def complete(spec: Spec) -> Spec:
    """The spec with its defaults filled in.

    Raises:
        InvalidArgument: naming each wrong field.
    """
    wrong: dict[str, str] = {}
    if not ModelVersionName.matches(spec.model_version):
        wrong["model_version"] = f"must look like {ModelVersionName.PATTERN}, not {spec.model_version[:80]!r}"
    if not 0 <= spec.replicas <= REPLICAS_MAX:
        wrong["replicas"] = f"must be between 1 and {REPLICAS_MAX}, not {spec.replicas}"
    if not 0 <= spec.batch_delay_micros <= BATCH_DELAY_MICROS_MAX:
        wrong["batch_delay_micros"] = (
            f"must be between 0 and {BATCH_DELAY_MICROS_MAX}, not {spec.batch_delay_micros}"
        )
    amounts = {
        "cpu_millis": spec.resources.cpu_millis,
        "memory_bytes": spec.resources.memory_bytes,
    }
    wrong |= {f"resources.{name}": "must not be negative" for name, amount in amounts.items() if amount < 0}
    asked = spec.resources
    devices = accelerator_problems(
        asked.accelerators, asked.accelerator_millis, asked.accelerator_memory_bytes
    )
    wrong |= {f"resources.{name}": what for name, what in (*devices, *budget_problems(asked.budgets))}
    wrong |= {f"rollout.{name}": what for name, what in policies.rollout_problems(spec.rollout)}
    wrong |= {f"scaling.{name}": what for name, what in policies.scaling_problems(spec.scaling, REPLICAS_MAX)}
    wrong |= {f"payload_log.{name}": what for name, what in policies.payload_log_problems(spec.payload_log)}
    if wrong:
        fields = {f"deployment.spec.{field}": problem for field, problem in wrong.items()}
        raise InvalidArgument("; ".join(f"{at}: {what}" for at, what in fields.items()), fields=fields)
    resources = replace(
        spec.resources,
        cpu_millis=spec.resources.cpu_millis or CPU_MILLIS,
        memory_bytes=spec.resources.memory_bytes or MEMORY_BYTES,
    )
    scaling = policies.complete_scaling(spec.scaling)
    return replace(
        spec,
        replicas=spec.replicas or max(1, scaling.minimum),
        resources=resources,
        rollout=policies.complete_rollout(spec.rollout),
        scaling=scaling,
        payload_log=policies.complete_payload_log(spec.payload_log),
    )


def check_redaction(spec: Spec, tensors: Mapping[str, Sequence[int]]) -> None:
    """Refuse rules that hide nothing of this model.

    Args:
        tensors: Its shape by name, `input.x` and `output.y`.

    Raises:
        InvalidArgument: naming each.
    """
    found = policies.redaction_problems(spec.payload_log, tensors)
    if fields := {f"deployment.spec.payload_log.{at}": what for at, what in found}:
        raise InvalidArgument("; ".join(f"{at}: {what}" for at, what in fields.items()), fields=fields)


def scale(spec: Spec, count: int | None, scaling: Scaling | None) -> Spec:
    """The spec with another number of replicas, or another rule for it; None leaves either.

    Raises:
        InvalidArgument: naming each wrong field.
    """
    wrong: dict[str, str] = {}
    if count is not None and not 0 <= count <= REPLICAS_MAX:
        wrong["replicas"] = f"must be between 0 and {REPLICAS_MAX}, not {count}"
    if scaling is not None:
        wrong |= {f"scaling.{at}": what for at, what in policies.scaling_problems(scaling, REPLICAS_MAX)}
    if wrong:
        raise InvalidArgument("; ".join(f"{at}: {what}" for at, what in wrong.items()), fields=wrong)
    if scaling is not None:
        spec = replace(spec, scaling=policies.complete_scaling(scaling))
    return spec if count is None else replace(spec, replicas=max(1, count))


def edit(current: Spec, wanted: Spec, mask: Iterable[str]) -> Spec:
    """`current` with the fields of `wanted` that the mask names; the whole spec where it names none.

    Raises:
        InvalidArgument: a path that no field has.
    """
    paths = [path for path in mask if path not in OUTPUT_ONLY]
    spec = current
    for path in paths:
        if path not in _EDITS:
            close = get_close_matches(path, _EDITS, 1)
            hint = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(sorted(_EDITS))}"
            raise InvalidArgument.of("update_mask", f"no field {path[:80]!r} can be changed{hint}")
        spec = _EDITS[path](spec, wanted)
    return spec if list(mask) else wanted


def update(deployment: Deployment, spec: Spec, etag: str, number: int, now: datetime) -> Deployment:
    """Make `number` its newest revision, with this spec.

    Args:
        etag: As the caller read it; empty accepts any.

    Raises:
        DeploymentDeleting: it is being taken down.
        EtagMismatch: the spec changed since.
    """
    require_kept(deployment)
    if etag and etag != deployment.etag:
        raise EtagMismatch(
            f"{deployment.name} has etag {deployment.etag}, not {etag}: read it again and repeat the change.",
            name=str(deployment.name),
            etag=deployment.etag,
        )
    return replace(deployment, spec=spec, latest=number, update_time=now)


def require_kept(deployment: Deployment) -> None:
    """Refuse to change a deployment that is being taken down.

    Raises:
        DeploymentDeleting: it is.
    """
    if deployment.state is State.DELETING:
        raise DeploymentDeleting(
            f"{deployment.name} is being taken down: create it again once it is gone.",
            name=str(deployment.name),
        )


OUTPUT_ONLY = frozenset(
    {
        "create_time",
        "etag",
        "latest_revision",
        "live_revision",
        "name",
        "state",
        "paused",
        "state_message",
        "traffic",
        "traffic_reason",
        "update_time",
    }
)
"""Paths that a mask may name without effect."""


def _whole(_: Spec, wanted: Spec) -> Spec:
    return wanted


def _field(name: str) -> Callable[[Spec, Spec], Spec]:
    return lambda spec, wanted: replace(spec, **{name: getattr(wanted, name)})


def _resource(name: str) -> Callable[[Spec, Spec], Spec]:
    def edit_resource(spec: Spec, wanted: Spec) -> Spec:
        resources = replace(spec.resources, **{name: getattr(wanted.resources, name)})
        return replace(spec, resources=resources)

    return edit_resource


_EDITS: Mapping[str, Callable[[Spec, Spec], Spec]] = MappingProxyType(
    {
        "*": _whole,
        "spec": _whole,
        "spec.batch_delay_micros": _field("batch_delay_micros"),
        "spec.payload_log": _field("payload_log"),
        "spec.model_version": _field("model_version"),
        "spec.replicas": _field("replicas"),
        "spec.resources": _field("resources"),
        "spec.resources.accelerator_memory_bytes": _resource("accelerator_memory_bytes"),
        "spec.resources.accelerator_millis": _resource("accelerator_millis"),
        "spec.resources.accelerators": _resource("accelerators"),
        "spec.resources.budgets": _resource("budgets"),
        "spec.resources.cpu_millis": _resource("cpu_millis"),
        "spec.resources.memory_bytes": _resource("memory_bytes"),
        "spec.rollout": _field("rollout"),
        "spec.scaling": _field("scaling"),
    }
)
