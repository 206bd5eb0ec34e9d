"""`job.yaml`: a command for the pool, read strictly. Pure. What it shares with a run.yaml is read as there."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aios.client import runspec
from aios.errors import InvalidArgument
from aios.scheduler.v1 import job_pb2

SHARED_KEYS = (
    "name", "command", "environment", "resources", "priority", "queue", "scheduling", "max_restarts", "stop_grace",
    "replicas", "min_replicas", "network",
)  # fmt: skip
KEYS = (*SHARED_KEYS, "kind", "ports", "requirements")
KINDS = {"batch": job_pb2.JobSpec.KIND_BATCH, "service": job_pb2.JobSpec.KIND_SERVICE}
RESOURCES: Mapping[str, Any] = {"cpu": 1, "memory": "1Gi"}
"""Each of a job that does not name it."""


@dataclass(frozen=True)
class JobFile:
    """One file's content."""

    spec: job_pb2.JobSpec
    job_id: str = ""
    """The job's name; made up by the service when empty."""


def parse(given: Mapping[str, Any]) -> JobFile:
    """Read a job as a mapping.

    Raises:
        InvalidArgument: naming every wrong key at once.
    """
    problems: dict[str, str] = {}
    runspec.unknown(given, KEYS, "", problems)
    kind, ports, requirements = (
        given.get("kind", "batch"),
        given.get("ports") or [],
        given.get("requirements"),
    )
    if not isinstance(kind, str) or kind not in KINDS:
        problems["kind"] = f"must be {' or '.join(KINDS)}, not {kind!r}"
    if not isinstance(ports, list) or not all(isinstance(port, str) for port in ports):
        problems["ports"] = "must be names, such as [http]: each is AIOS_PORT_HTTP to the process"
    if requirements is not None and not isinstance(requirements, str):
        problems["requirements"] = "must be the dataset version that holds requirements.lock"
    shared = {key: given[key] for key in SHARED_KEYS if given.get(key) is not None}
    if not shared.get("command"):
        problems["command"] = "is required: words, such as `python work.py`, or a list of them"
        shared["command"] = ["true"]  # so that all else is looked at too
    resources = shared.get("resources") or {}
    if isinstance(resources, Mapping):  # what is none is refused with the rest
        shared["resources"] = {**RESOURCES, **resources}
    try:
        run = runspec.parse(shared)
    except InvalidArgument as error:
        raise runspec.refusal(problems | error.fields) from None
    if problems:
        raise runspec.refusal(problems)
    like = run.spec
    spec = job_pb2.JobSpec(
        kind=KINDS[kind],
        command=like.command,
        environment=like.environment,
        resources=like.resources,
        ports=ports,
        max_restarts=like.max_restarts,
        stop_grace=like.stop_grace if like.HasField("stop_grace") else None,
        priority=like.priority,
        queue=like.queue,
        scheduling=like.scheduling,
        node_network=like.node_network,
        replicas=like.replicas,
        min_replicas=like.min_replicas,
        requirements=runspec.dataset_name(requirements) if requirements else "",
    )
    return JobFile(spec, run.run_id)
