"""How a new revision takes over, what it must keep to, and how many replicas there should be. Pure values."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import prod
from types import MappingProxyType

STEPS = (10, 50)
STEP_SECONDS = 30
STEPS_MAX = 10
REQUESTS_MIN = 50
ERRORS_PERCENT_MAX = 1.0
CONCURRENCY = 8.0
IDLE_SECONDS = 300
WINDOW_SECONDS, WINDOW_SECONDS_MIN, WINDOW_SECONDS_MAX = 300, 10, 24 * 3600
RULES_MAX = 64
SECONDS_MAX = 7 * 24 * 3600  # who waits for longer than a week waits for a person

_RULE = re.compile(r"(?P<tensor>(?:input|output)\..+?)(?:(?P<hashed>#)|\[(?P<element>\d{1,9})\])?")


class Kind(StrEnum):
    """The ways in which a revision takes over."""

    ROLLING = "ROLLING"
    BLUE_GREEN = "BLUE_GREEN"
    CANARY = "CANARY"
    SHADOW = "SHADOW"


@dataclass(frozen=True)
class Gates:
    """What a revision on trial must keep to; 0 is the default, or no limit where there is none."""

    requests_min: int = 0
    errors_percent_max: float = 0.0
    p99_millis_max: float = 0.0
    slowdown_max: float = 0.0
    quality_min: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Rollout:
    """How a revision takes over from the one before it."""

    kind: Kind = Kind.ROLLING
    steps: tuple[int, ...] = ()
    step_seconds: int = 0
    gates: Gates = field(default_factory=Gates)
    mirror_percent: int = 0
    affinity_header: str = ""


@dataclass(frozen=True)
class Scaling:
    """How many replicas there are, by how much there is to do. Off where `maximum` is 0."""

    minimum: int = 0
    maximum: int = 0
    concurrency: float = 0.0
    p99_millis: float = 0.0
    idle_seconds: int = 0


@dataclass(frozen=True)
class Stage:
    """One step of a trial: the candidate's share of the requests, and of their copies, in percent."""

    percent: int
    mirror_percent: int
    seconds: int
    """How long it lasts at the least; 0 until somebody promotes it."""


_STAGES: Mapping[Kind, tuple[int, ...]] = MappingProxyType(
    {Kind.ROLLING: (), Kind.BLUE_GREEN: (0,), Kind.SHADOW: (0,)}
)


def stages(policy: Rollout) -> tuple[Stage, ...]:
    """The steps of a trial; none where the revision takes over as soon as it is ready."""
    shares = _STAGES.get(policy.kind, policy.steps)
    mirror = policy.mirror_percent if policy.kind is Kind.SHADOW else 0
    return tuple(Stage(share, mirror, policy.step_seconds) for share in shares)


def complete_rollout(policy: Rollout) -> Rollout:
    """The policy with its defaults."""
    if policy.kind is Kind.ROLLING:
        return policy
    gates = replace(
        policy.gates,
        requests_min=policy.gates.requests_min or REQUESTS_MIN,
        errors_percent_max=policy.gates.errors_percent_max or ERRORS_PERCENT_MAX,
    )
    if policy.kind is Kind.CANARY:
        steps, seconds = policy.steps or STEPS, policy.step_seconds or STEP_SECONDS
        return replace(policy, steps=steps, step_seconds=seconds, gates=gates)
    if policy.kind is Kind.SHADOW:
        return replace(policy, mirror_percent=policy.mirror_percent or 100, gates=gates)
    return replace(policy, gates=gates)


def complete_scaling(policy: Scaling) -> Scaling:
    """The policy with its defaults."""
    if not policy.maximum:
        return Scaling()
    return replace(
        policy,
        concurrency=policy.concurrency or CONCURRENCY,
        idle_seconds=policy.idle_seconds or IDLE_SECONDS,
    )


def rollout_problems(policy: Rollout) -> Iterator[tuple[str, str]]:
    """(field, what is wrong with it) of a policy as sent."""
    if list(policy.steps) != sorted(set(policy.steps)) or not all(0 < step < 100 for step in policy.steps):
        yield "steps", f"must grow from step to step, each between 1 and 99, not {list(policy.steps)}"
    if len(policy.steps) > STEPS_MAX:
        yield "steps", f"must be {STEPS_MAX} at most"
    if not 0 <= policy.step_seconds <= SECONDS_MAX:
        yield "step_seconds", f"must be between 0 and {SECONDS_MAX}"
    if not 0 <= policy.mirror_percent <= 100:
        yield "mirror_percent", f"must be between 0 and 100, not {policy.mirror_percent}"
    header = policy.affinity_header
    if header and not (header.isascii() and header.replace("-", "").isalnum() and len(header) <= 63):
        yield "affinity_header", "must be a header's name: letters, digits and hyphens"
    gates = policy.gates
    if gates.requests_min < 0:
        yield "gates.requests_min", "must not be negative"
    if not 0 <= gates.errors_percent_max <= 100:
        yield "gates.errors_percent_max", "must be between 0 and 100"
    if not gates.p99_millis_max >= 0:
        yield "gates.p99_millis_max", "must not be negative"
    if not (gates.slowdown_max == 0 or gates.slowdown_max >= 1):
        yield "gates.slowdown_max", "must be 1 or more"


def scaling_problems(policy: Scaling, most: int) -> Iterator[tuple[str, str]]:
    """(field, what is wrong with it) of a policy as sent."""
    if not 0 <= policy.minimum <= policy.maximum <= most:
        yield "min_replicas", f"0 <= min_replicas <= max_replicas <= {most} must hold"
    if not policy.concurrency >= 0:
        yield "target_concurrency", "must not be negative"
    if not policy.p99_millis >= 0:
        yield "target_p99_millis", "must not be negative"
    if not 0 <= policy.idle_seconds <= SECONDS_MAX:
        yield "idle_seconds", f"must be between 0 and {SECONDS_MAX}"


@dataclass(frozen=True)
class PayloadLog:
    """What is kept of a share of the predictions. See the contract for what a rule of `redact` says."""

    sample_rate: float = 0.0
    redact: tuple[str, ...] = ()
    window_seconds: int = 0


def complete_payload_log(policy: PayloadLog) -> PayloadLog:
    """The policy with its defaults."""
    if not policy.sample_rate:
        return PayloadLog()
    return replace(policy, window_seconds=policy.window_seconds or WINDOW_SECONDS)


def payload_log_problems(policy: PayloadLog) -> Iterator[tuple[str, str]]:
    """(field, what is wrong with it) of a policy as sent."""
    if not 0 <= policy.sample_rate <= 1:
        yield "sample_rate", f"must be above 0 and at most 1, not {policy.sample_rate:g}"
    if not policy.sample_rate and (policy.redact or policy.window_seconds):
        yield "sample_rate", "must be above 0: nothing is kept otherwise"
    if policy.window_seconds and not WINDOW_SECONDS_MIN <= policy.window_seconds <= WINDOW_SECONDS_MAX:
        yield "window_seconds", f"must be between {WINDOW_SECONDS_MIN} and {WINDOW_SECONDS_MAX}"
    if len(policy.redact) > RULES_MAX:
        yield "redact", f"must be {RULES_MAX} at most"


def redaction_problems(policy: PayloadLog, tensors: Mapping[str, Sequence[int]]) -> Iterator[tuple[str, str]]:
    """(field, what is wrong with it) of rules for a model. One that redacts nothing by a slip would keep a secret.

    Args:
        tensors: Shape by name, `input.x` and `output.y`; -1 is any size.
    """
    for index, rule in enumerate(policy.redact):
        found = _RULE.fullmatch(rule)
        if found is None or found["tensor"] not in tensors:
            known = ", ".join(tensors)
            yield (
                f"redact[{index}]",
                f"{rule[:80]!r} must be one of {known}, or that with # or [number] behind",
            )
        elif found["element"]:
            shape = tensors[found["tensor"]]
            if -1 not in shape and int(found["element"]) >= prod(shape):
                yield f"redact[{index}]", f"{found['tensor']} has {prod(shape)} elements, counted from 0"
