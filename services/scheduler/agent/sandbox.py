"""What a job's process is given: its command, its environment, its place. What it sees of the machine: isolation.py."""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from aios.config import Settings, variable_of
from aios.names import JobName
from aios.runtime import peers
from aios.scheduling import MEMORY_FRACTION
from services.scheduler.agent import isolation
from services.scheduler.agent.bounds import PROCESSES, PROCESSES_PER_CORE, Bounds, Groups
from services.scheduler.agent.gpus import is_gpu
from services.scheduler.agent.isolation import NO_ISOLATION, Isolation
from services.scheduler.attempts import RENDEZVOUS
from services.scheduler.specs import JobSpec, Kind

PASSED_ON = ("LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR", "LD_LIBRARY_PATH")
"""What a job gets of the agent's own environment: language, time, trust, and where a machine keeps its drivers."""
NODE_SETTINGS = ("listen_host", "triton_home", "triton_server", "otlp_endpoint", "telemetry", "log_level")
"""Settings that jobs share: this machine's address in the pool, where it keeps programs for them, where spans go."""
BATCH_NICE = 5
"""Training yields the processor to servers, and to the platform itself."""
BATCH_WEIGHT = 0.33
"""The same among groups: what the kernel gives to one that is nicer by BATCH_NICE."""
MEMORY_BYTES = 1 << 30
"""What a job counts as asking for that asks for none: nothing runs without a bound."""
MEMORY_SLACK = 2
"""A job is killed at so many times what it asked for: that is an estimate, and what is in use at once is seen late."""


@dataclass(frozen=True)
class Node:
    """What is the same for every attempt of a machine."""

    settings: Settings
    own: Mapping[str, str]
    """The agent's environment."""
    lease_file: Path
    isolation: Isolation = NO_ISOLATION
    groups: Groups | None = None
    """None where the kernel makes none for this agent."""
    device_nodes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Files of GPUs, by id."""


@dataclass(frozen=True)
class Gang:
    """Which process of a gang an attempt is, and where the gang meets."""

    rank: int
    replicas: int
    host: str
    """Of the first process."""
    port: int
    """0 in the first process itself, which has it as a port of its own."""


@dataclass(frozen=True)
class Place:
    """Where an attempt runs and what the node gave it."""

    directory: Path
    job: str
    epoch: int
    traceparent: str
    ports: Mapping[str, int]
    devices: Sequence[str]
    """Ids of the GPUs granted, as CUDA takes them."""
    gang: Gang | None = None
    memory_fraction: float | None = None
    """Of its device's memory that it may use; None where it shares none."""
    packages: Path | None = None
    """The environment with its own packages; None where the node's serve."""

    @property
    def scratch(self) -> Path:
        """Its working directory and its only place to write; removed with the attempt."""
        return self.directory / "scratch"

    @property
    def authority_file(self) -> Path:
        """Whom it believes at the public door, where that speaks TLS."""
        return self.directory / peers.AUTHORITY

    @property
    def token_file(self) -> Path:
        """Its credential, renewed in place."""
        return self.directory / "token"


def launch(spec: JobSpec, place: Place, node: Node) -> dict[str, Any]:
    """What the shim is told to run.

    Raises:
        OSError: the kernel refuses its group.
    """
    batch = spec.kind is Kind.BATCH
    network = not batch or spec.node_network or place.gang is not None
    cores = spec.resources.cpu_millis / 1000
    bounds = Bounds(
        (spec.resources.memory_bytes or MEMORY_BYTES) * MEMORY_SLACK,
        PROCESSES + round(cores * PROCESSES_PER_CORE),
        cores * (BATCH_WEIGHT if batch else 1.0),
    )
    devices = [node.device_nodes[device] for device in place.devices if device in node.device_nodes]
    doors = [] if network else isolation.doors(node.settings)
    return {
        "command": _command(spec),
        "environment": environment(spec, place, node.settings, node.own),
        "directory": str(place.scratch),
        "nice": BATCH_NICE if batch else 0,
        "fenced": batch,
        "lease": str(node.lease_file),
        "sandbox": node.isolation.command(
            place.directory,
            node.settings,
            bounds.memory_bytes,
            [*devices, *(isolation.DEVICES if devices else ())],
            [str(place.packages)] if place.packages else [],
            network=network,
        ),
        "doors": isolation.as_launch(doors),
        "bounds": {"memory_bytes": bounds.memory_bytes, "processes": bounds.processes}
        | ({"groups": node.groups.make(place.directory, bounds)} if node.groups else {}),
    }


def environment(spec: JobSpec, place: Place, settings: Settings, own: Mapping[str, str]) -> dict[str, str]:
    """Every variable of the process: of the agent's own only the allowed ones, then the job's, then ours."""
    cores = max(1, round(spec.resources.cpu_millis / 1000))
    return {
        **{name: own[name] for name in PASSED_ON if name in own},
        # Libraries start a thread per core of the machine unless told what the job was granted.
        "OMP_NUM_THREADS": str(cores),
        "PYTHONUNBUFFERED": "1",
        **_programs(place.packages),
        "HOME": str(place.scratch),
        "TMPDIR": str(place.scratch),
        "CUDA_VISIBLE_DEVICES": ",".join(device for device in place.devices if is_gpu(device)),
        **spec.environment,
        **{
            variable_of(name): str(value)
            for name in NODE_SETTINGS
            if (value := getattr(settings, name)) not in (None, "")
        },
        "AIOS_JOB": place.job,
        "AIOS_EPOCH": str(place.epoch),
        "AIOS_PROJECT": JobName.parse(place.job).project,
        "AIOS_ADDRESS": settings.address,
        "AIOS_TOKEN_FILE": str(place.token_file),
        "AIOS_SCRATCH": str(place.scratch),
        **_accelerators(place),
        **{f"AIOS_PORT_{name.upper()}": str(port) for name, port in place.ports.items()},
        **({"TRACEPARENT": place.traceparent} if place.traceparent else {}),
        **({"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(place.authority_file)} if settings.mutual_tls else {}),
        **(_rendezvous(place.gang, place.ports) if place.gang else {}),
    }


def _programs(packages: Path | None) -> dict[str, str]:
    """Where programs are looked for: among its own packages, then the platform's, then the system's."""
    own = [str(packages / "bin")] if packages else []
    folders = [*own, str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin"]
    return {"PATH": os.pathsep.join(folders)} | ({"VIRTUAL_ENV": str(packages)} if packages else {})


def _accelerators(place: Place) -> dict[str, str]:
    """Devices that CUDA does not know, and what a job may use of the memory of one that it shares."""
    others = [device for device in place.devices if not is_gpu(device)]
    found = {"AIOS_DEVICES": ",".join(others)} if others else {}
    if place.memory_fraction is not None:
        found[MEMORY_FRACTION] = f"{place.memory_fraction:.4f}"
    return found


def _rendezvous(gang: Gang, own: Mapping[str, int]) -> dict[str, str]:
    """What torch.distributed's `env://` reads, and its like. Each process has its own devices, so it is local rank 0."""
    local = {"GLOO_SOCKET_IFNAME": "lo"} if gang.host.startswith("127.") else {}
    return local | {
        "RANK": str(gang.rank),
        "WORLD_SIZE": str(gang.replicas),
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "GROUP_RANK": str(gang.rank),
        "GROUP_WORLD_SIZE": str(gang.replicas),
        "MASTER_ADDR": gang.host,
        "MASTER_PORT": str(gang.port or own[RENDEZVOUS]),
    }


def _command(spec: JobSpec) -> list[str]:
    program, *arguments = spec.command
    if program == "python":
        return [sys.executable, *arguments]
    # Found here and not on the job's own PATH: the same program whatever the job sets.
    return [shutil.which(program) or program, *arguments]
