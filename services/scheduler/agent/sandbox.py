"""What a job's process gets to see: its command, its environment, its place. The one file that decides it."""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aios.config import Settings, variable_of
from aios.names import JobName
from services.scheduler.specs import JobSpec, Kind

PASSED_ON = ("LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR", "LD_LIBRARY_PATH")
"""What a job gets of the agent's own environment: language, time, trust, and where a machine keeps its drivers."""
NODE_SETTINGS = ("listen_host", "triton_home", "triton_server", "otlp_endpoint", "telemetry", "log_level")
"""Settings that jobs share: this machine's address in the pool, where it keeps programs for them, where spans go."""
BATCH_NICE = 5
"""Training yields the processor to servers, and to the platform itself."""


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

    @property
    def scratch(self) -> Path:
        """Its working directory and its only place to write; removed with the attempt."""
        return self.directory / "scratch"

    @property
    def token_file(self) -> Path:
        """Its credential, renewed in place."""
        return self.directory / "token"


def launch(
    spec: JobSpec, place: Place, settings: Settings, own: Mapping[str, str], lease_file: Path
) -> dict[str, Any]:
    """What the shim is told to run. `own` is the agent's environment."""
    return {
        "command": _command(spec),
        "environment": environment(spec, place, settings, own),
        "directory": str(place.scratch),
        "nice": BATCH_NICE if spec.kind is Kind.BATCH else 0,
        "fenced": spec.kind is Kind.BATCH,
        "lease": str(lease_file),
    }


def environment(spec: JobSpec, place: Place, settings: Settings, own: Mapping[str, str]) -> dict[str, str]:
    """Every variable of the process: of the agent's own only the allowed ones, then the job's, then ours."""
    cores = max(1, round(spec.resources.cpu_millis / 1000))
    return {
        **{name: own[name] for name in PASSED_ON if name in own},
        # Libraries start a thread per core of the machine unless told what the job was granted.
        "OMP_NUM_THREADS": str(cores),
        "PYTHONUNBUFFERED": "1",
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin")),
        "HOME": str(place.scratch),
        "TMPDIR": str(place.scratch),
        "CUDA_VISIBLE_DEVICES": ",".join(place.devices),
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
        **{f"AIOS_PORT_{name.upper()}": str(port) for name, port in place.ports.items()},
        **({"TRACEPARENT": place.traceparent} if place.traceparent else {}),
    }


def _command(spec: JobSpec) -> list[str]:
    program, *arguments = spec.command
    if program == "python":
        return [sys.executable, *arguments]
    # Found here and not on the job's own PATH: the same program whatever the job sets.
    return [shutil.which(program) or program, *arguments]
