"""The life of a replica: fetch, load, answer, report; end when the model no longer answers."""

import asyncio
import logging
import shutil
import time
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor

from aios.errors import FailedPrecondition
from aios.runtime import telemetry
from services.inference.replica import language, payloads, probe, repository, spans
from services.inference.replica.download import fetch
from services.inference.replica.language import Language
from services.inference.replica.probe import Probe, ProbeFailed
from services.inference.replica.repository import Backend
from services.inference.replica.server import STOP_SECONDS, Ports, Server, StartFailed
from services.inference.replica.spec import Download, ReplicaSpec, State
from services.inference.replica.triton import Triton
from services.inference.replica.weights import Weights
from services.inference.work import Work

REPORT_SECONDS = 2.0
"""Between reports; the inference service gives a silent replica up after several."""

START_SECONDS_MAX = 300.0
"""For the server to load the model: large ones are read from disk and copied to a device."""

INSTANCES = 1
"""Copies of the model in one replica. Scale comes from replicas, which fail alone."""

_log = logging.getLogger(__name__)


class ControlPlane(payloads.Sink, Protocol):
    """What a replica asks of, and tells to, the services."""

    async def spec(self) -> ReplicaSpec:
        """What this replica serves."""

    async def downloads(self, model_version: str) -> Sequence[Download]:
        """The files of a model version, with fresh URLs."""

    async def report(self, state: State, message: str, work: Work | None = None) -> None:
        """Tell the state. Returns even if nobody could be told: a replica outlives the control plane.

        Raises:
            StaleEpoch: A newer attempt serves in this one's place.
        """


class ServerEnded(FailedPrecondition):
    """The server ended by itself."""

    reason = "SERVER_ENDED"


@dataclass(frozen=True)
class _Running:
    """What answers."""

    server: Server
    check: Probe
    warm_seconds: float
    """What one inference takes."""
    weights: Weights | None
    """Of a language model."""
    kept: payloads.Payloads | None
    """What passes kept predictions on."""


@dataclass(frozen=True)
class Replica:
    """Everything that one attempt at serving needs; `serve` is its whole life."""

    control: ControlPlane
    triton: Triton
    ports: Ports
    scratch: Path
    """Empty directory of this attempt's own."""
    span_processor: SpanProcessor
    span_resource: Resource
    environment: Mapping[str, str]
    """Ours. The server's is made from a few of its variables."""
    threads: int
    traceparent: str = ""
    """W3C context of the request that made this job; its start is part of that trace."""

    async def serve(self) -> None:
        """Serve until cancelled; then the server ends in good order.

        Raises:
            AiosError: The replica cannot start or has stopped answering. No process is left.
        """
        with closing(await spans.receive(self.scratch / "spans", self.span_processor, self.span_resource)):
            with telemetry.span("replica.start", traceparent=self.traceparent):
                running = await self._start()
            try:
                await self._stay(running)
            finally:
                await running.check.close()
                if running.weights is not None:
                    await running.weights.stop()

    async def _start(self) -> "_Running":
        environment = self.triton.environment(self.threads, self.environment)
        environment[spans.SPAN_SOCKET] = "spans"  # in the server's working directory
        root = self.scratch / "repository"
        root.mkdir()
        server = await Server.start(self.triton, root, self.ports, environment)
        try:
            return await self._load(server, root, environment)
        except BaseException:
            await server.stop(0)
            raise

    async def _load(self, server: Server, root: Path, environment: Mapping[str, str]) -> "_Running":
        # Nobody waits for the one to be told.
        _, spec = await asyncio.gather(self.control.report(State.STARTING, ""), self.control.spec())
        model = root / spec.deployment_id
        with telemetry.span("model.fetch") as span:
            files = await self.control.downloads(spec.model_version)
            kind = language.language((each.path for each in files), spec.signature)
            # First: it refuses what cannot be served.
            config = language.config_text(spec, kind) if kind else self._config(spec, files)
            span.set_attribute("aios.bytes", await fetch(files, model))
        (model / "config.pbtxt").write_text(config)
        if kind or self.triton.backend is Backend.PYTHON:
            copy_runner("text_model.py" if kind else "model.py", model / repository.VERSION)
        check = Probe(
            self.ports.host,
            self.ports.http,
            spec.deployment_id,
            spec.signature,
            generates=kind is Language.GENERATE,
        )
        kept = self.scratch / payloads.FOLDER
        payloads.prepare(kept)
        with telemetry.span("model.load"):
            weights = None
            try:
                if kind:
                    artifacts = model / repository.VERSION / repository.ARTIFACTS
                    weights = await Weights.start(kind, artifacts, self.scratch, environment)
                warm_seconds = await first_answer(server, check, spec.deployment_id)
                kept_by = payloads.Payloads(kept, spec, self.control) if spec.payload_log else None
                return _Running(server, check, warm_seconds, weights, kept_by)
            except BaseException:
                await check.close()
                if weights is not None:
                    await weights.stop()
                raise

    async def _stay(self, running: "_Running") -> None:
        server, check, warm_seconds = running.server, running.check, running.warm_seconds
        _log.info("ready: one inference takes %.1f ms", warm_seconds * 1000)
        grace = 0.0  # what has failed does not shut down in good order either: that was seen to hang
        try:
            await _until_one_ends(
                probe.watch(check, warm_seconds, asyncio.sleep),
                _ended(server),
                _child_ended(server),
                self._report_ready(check),
                *([running.weights.ended()] if running.weights is not None else []),
                *([running.kept.run()] if running.kept is not None else []),
            )
        except asyncio.CancelledError:
            grace = STOP_SECONDS
            await check.close()  # the server waits for open connections
            raise
        finally:
            await server.stop(grace)
            if running.kept is not None:
                await running.kept.close()

    async def _report_ready(self, check: Probe) -> None:
        while True:
            await self.control.report(State.READY, "", await check.work(self.ports.metrics))
            await asyncio.sleep(REPORT_SECONDS)

    def _config(self, spec: ReplicaSpec, files: Sequence[Download]) -> str:
        backend = self.triton.backend
        return repository.config_text(
            spec,
            repository.model_file(each.path for each in files),
            backend,
            instances=INSTANCES,
            threads=self.threads,
            gpu=backend is Backend.ONNXRUNTIME and bool(self.environment.get("CUDA_VISIBLE_DEVICES")),
        )


def copy_runner(source: str, place: Path) -> None:
    """Copy one of our `model.py` to where Triton's Python backend finds it, with all that it imports of ours."""
    here = Path(__file__)
    shutil.copy(here.with_name(source), place / "model.py")
    for helper in ("stub.py", "keep.py"):
        shutil.copy(here.with_name(helper), place)


async def first_answer(server: Server, check: Probe, model: str) -> float:
    """Load the model and have it answer; returns the seconds that a warm inference takes.

    Raises:
        StartFailed: it cannot be loaded, or does not answer.
    """
    try:
        await server.load(model, START_SECONDS_MAX)
        await check.ask(START_SECONDS_MAX)
        began = time.monotonic()
        await check.ask(START_SECONDS_MAX)
        return time.monotonic() - began
    except ProbeFailed as error:
        raise StartFailed(f"the model was loaded and {error}") from error


async def _ended(server: Server) -> None:
    code = await server.wait()
    raise ServerEnded(f"Triton ended with {code}: {server.reason()}")


async def _child_ended(server: Server) -> None:
    await server.child_ended()
    raise ServerEnded("the model's process ended")


async def _until_one_ends(*lives: Coroutine[Any, Any, None]) -> None:
    """Run all until the first ends; its exception, if any, is ours. The others are cancelled."""
    tasks = [asyncio.create_task(life) for life in lives]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
