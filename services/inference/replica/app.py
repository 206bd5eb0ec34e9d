"""Build a replica from what the node agent says, and run it until it is stopped or fails."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from aios.config import Settings
from aios.errors import AiosError, InvalidArgument
from aios.runtime import logs, telemetry
from aios.runtime.channel import door_channel
from aios.runtime.token_files import TokenSource, token_file
from services.inference.replica.control import GrpcControlPlane
from services.inference.replica.life import Replica
from services.inference.replica.server import LOOPBACK, Ports
from services.inference.replica.spec import State
from services.inference.replica.triton import unpacked

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Attempt:
    """What the node agent tells a job about itself."""

    job: str
    epoch: int
    ports: Ports
    traceparent: str
    scratch: str | None
    """Directory for this attempt's files; the system's own where None."""
    threads: int
    """Threads of the model's operators."""

    @classmethod
    def load(cls, environment: Mapping[str, str]) -> "Attempt":
        """Read the job's part of the environment.

        Raises:
            InvalidArgument: A variable is missing or not a number, and which.
        """
        return cls(
            job=_variable(environment, "AIOS_JOB"),
            epoch=_number(environment, "AIOS_EPOCH"),
            ports=Ports(
                http=_number(environment, "AIOS_PORT_HTTP"),
                grpc=_number(environment, "AIOS_PORT_GRPC"),
                metrics=_number(environment, "AIOS_PORT_METRICS"),
                host=environment.get("AIOS_LISTEN_HOST", LOOPBACK),
            ),
            traceparent=environment.get("TRACEPARENT", ""),
            scratch=environment.get("AIOS_SCRATCH"),
            threads=_number(environment, "OMP_NUM_THREADS") if "OMP_NUM_THREADS" in environment else 1,
        )


def main() -> None:
    """Run the replica of this job. Exits 0 when it was stopped, 1 when it failed."""
    try:
        settings, attempt = Settings.load(), Attempt.load(os.environ)
        logs.setup("replica", settings.log_level)
        if settings.token_file is None:
            raise InvalidArgument.of("AIOS_TOKEN_FILE", "must name the file with this job's token")
        token = token_file(settings.token_file)
    except AiosError as error:
        sys.exit(f"replica: {error.message}")
    sys.exit(asyncio.run(run(settings, attempt, token)))


async def run(settings: Settings, attempt: Attempt, token: TokenSource) -> int:
    """Serve until SIGTERM; returns the exit code."""
    if settings.telemetry:
        telemetry.setup_job("replica", settings, token)
    compute_spans = BatchSpanProcessor(
        telemetry.OtlpExporter(*telemetry.receiver(settings, token)),
        max_queue_size=telemetry.SPAN_QUEUE_MAX,
        schedule_delay_millis=telemetry.EXPORT_EVERY_MILLIS,
    )
    async with door_channel(settings.address, token) as channel:
        control = GrpcControlPlane(channel, attempt.job, attempt.epoch, attempt.ports)
        with tempfile.TemporaryDirectory(prefix="replica-", dir=attempt.scratch) as scratch:
            code = await _serve(settings, attempt, control, Path(scratch), compute_spans)
    # Exporters wait for the network: off the loop, and after everything that can fail.
    await asyncio.to_thread(compute_spans.shutdown)
    await asyncio.to_thread(telemetry.shutdown)
    return code


async def _serve(
    settings: Settings,
    attempt: Attempt,
    control: GrpcControlPlane,
    scratch: Path,
    compute_spans: BatchSpanProcessor,
) -> int:
    async def live() -> None:
        replica = Replica(
            control=control,
            triton=await unpacked(settings, lambda what: control.report(State.STARTING, what)),
            ports=attempt.ports,
            scratch=scratch,
            span_processor=compute_spans,
            span_resource=Resource.create({"service.name": "triton"}),
            environment=os.environ,
            threads=attempt.threads,
            traceparent=attempt.traceparent,
        )
        await replica.serve()

    reason = "the replica ended"
    try:
        life = asyncio.create_task(live())
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, life.cancel)
        await life
    except asyncio.CancelledError:
        _log.info("stopped")
        return 0
    except AiosError as error:
        reason = error.message
        _log.error("the replica ends: %s", reason)
    except Exception:  # noqa: BLE001 - whatever it was, the services hear that this replica is gone
        reason = "internal fault of the replica; its log says which"
        _log.exception("the replica failed")
    with contextlib.suppress(AiosError):
        await control.report(State.FAILED, reason)
    return 1


def _variable(environment: Mapping[str, str], name: str) -> str:
    if value := environment.get(name):
        return value
    raise InvalidArgument.of(name, "must be set: a replica runs as a job of the scheduler")


def _number(environment: Mapping[str, str], name: str) -> int:
    text = _variable(environment, name)
    if not text.isascii() or not text.isdigit():
        raise InvalidArgument.of(name, f"must be a whole number, not {text!r}")
    return int(text)
