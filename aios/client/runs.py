"""Training runs: submitted, followed, cancelled."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from aios.client.connection import Connection, pages, request_id
from aios.client.datasets import Datasets
from aios.client.jobs import RECONNECT_SECONDS, RECONNECTS_MAX, Jobs
from aios.client.models import Models
from aios.client.optimizespec import ASSESS, assessment, optimization
from aios.client.runspec import parse
from aios.code import ARCHIVE, CODE_DATASET, pack
from aios.data.v1 import model_pb2
from aios.errors import InvalidArgument, Unavailable
from aios.names import RunName
from aios.requirements import REQUIREMENTS_DATASET, REQUIREMENTS_FILE, locked
from aios.trainer.v1 import run_pb2, trainer_service_pb2_grpc
from aios.trainer.v1 import trainer_service_pb2 as pb

FINAL = frozenset({run_pb2.Run.STATE_SUCCEEDED, run_pb2.Run.STATE_FAILED, run_pb2.Run.STATE_CANCELLED})
JOB_POLL_SECONDS = 0.2
LOOKED_THROUGH = 500
"""Runs, newest first, among which an assessment is looked for."""


class Runs:
    """`client.runs`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = trainer_service_pb2_grpc.TrainerServiceStub(connection.channel)

    async def submit(
        self,
        spec: run_pb2.RunSpec | Mapping[str, Any],
        *,
        run_id: str = "",
        request: str = "",
        code: str | Path | None = None,
    ) -> run_pb2.Run:
        """Submit a run; once this returns, it will not be lost.

        Args:
            spec: The message, or what a run.yaml says: `{"recipe": ..., "dataset": ...}`.
            code: Folder that a command is started in: it is packed, but for what its .gitignore and .aiosignore name.
            request: Idempotency key, where a retry must outlive this process.
        """
        wheel = None
        if not isinstance(spec, run_pb2.RunSpec):
            parsed = parse(spec)
            spec, run_id, code = parsed.spec, run_id or parsed.run_id, code or parsed.code
            if parsed.requirements:
                lock = Path(code or "", parsed.requirements)
                spec.requirements = await self.push_requirements(lock)
            wheel = Path(code or "", parsed.wheel) if parsed.wheel else None
        if spec.command and (wheel or code):
            pushed = await (self.push_wheel(wheel) if wheel else self.push_code(Path(code or "")))
            spec.code = pushed.removeprefix(f"{self._connection.project}/")
        return await self._stub.CreateRun(
            pb.CreateRunRequest(
                parent=self._connection.project,
                run_id=run_id,
                run=run_pb2.Run(spec=spec),
                request_id=request or request_id(),
            )
        )

    async def optimize(
        self, model_version: str, plan: Mapping[str, Any], *, request: str = ""
    ) -> run_pb2.Run:
        """Submit the optimisation of a model version, `digits/3`: what an optimize.yaml says, such as
        `{"steps": ["int8_static"], "limits": {"points_lost": 0.5}}`. Where it names no dataset, it is judged on the one
        that the version was trained on.
        """
        given = dict(plan)
        base = await Models(self._connection).version(model_version)
        if not given.get("dataset"):
            given["dataset"] = await self._trained_on(base)
        return await self.submit(optimization(base.name, given), request=request)

    async def assess(
        self,
        model_version: str,
        settings: Mapping[str, Any] | None = None,
        *,
        dataset: str = "",
        request: str = "",
    ) -> run_pb2.Run:
        """Submit an assessment of a model version, `digits/3`: attacks on it, what it gives away of its training data, signs
        of poison in that. On the dataset that it was trained on where none is named.
        """
        base = await Models(self._connection).version(model_version)
        asked = assessment(base.name, dataset or await self._trained_on(base), settings or {})
        return await self.submit(asked, request=request)

    async def assessed(self, model_version: str) -> run_pb2.Run | None:
        """The newest assessment of a model version that has succeeded, among the project's newest runs."""
        async for run in self.list(LOOKED_THROUGH):
            of_it = run.spec.recipe == ASSESS and run.spec.base_model == model_version
            if of_it and run.state == run_pb2.Run.STATE_SUCCEEDED:
                return run
        return None

    async def _trained_on(self, version: model_pb2.ModelVersion) -> str:
        """The dataset version of the run that made it; empty for an uploaded model."""
        return (await self.get(version.run)).spec.dataset if version.run else ""

    async def push_requirements(self, lock: Path) -> str:
        """Store a lock of packages; the name of its dataset version. The same packages are the same version."""
        try:
            packages = locked(lock.read_text())
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidArgument.of("requirements", f"{lock} cannot be read: {error}") from None
        with tempfile.TemporaryDirectory(prefix="aios-requirements-") as scratch:
            file = Path(scratch, REQUIREMENTS_FILE)
            await asyncio.to_thread(file.write_text, "\n".join(packages) + "\n")
            return (await Datasets(self._connection).push(REQUIREMENTS_DATASET, file)).name

    async def push_code(self, folder: Path) -> str:
        """Store a folder's code; the name of its dataset version. The same code is the same version."""
        with tempfile.TemporaryDirectory(prefix="aios-code-") as scratch:
            archive = Path(scratch, ARCHIVE)
            await asyncio.to_thread(pack, folder, archive)
            return (await Datasets(self._connection).push(CODE_DATASET, archive)).name

    async def push_wheel(self, wheel: Path) -> str:
        """Store what a Python wheel would install as code; the name of its dataset version."""
        from aios.wheels import pack_wheel  # for few

        with tempfile.TemporaryDirectory(prefix="aios-wheel-") as scratch:
            archive = Path(scratch, ARCHIVE)
            await asyncio.to_thread(pack_wheel, wheel, archive)
            return (await Datasets(self._connection).push(CODE_DATASET, archive)).name

    async def get(self, name: str) -> run_pb2.Run:
        """One run."""
        return await self._stub.GetRun(pb.GetRunRequest(name=self._name(name)))

    async def list(self, limit: int | None = None) -> AsyncIterator[run_pb2.Run]:
        """The project's runs, newest first."""
        request = pb.ListRunsRequest(parent=self._connection.project)
        async for each in pages(self._stub.ListRuns, request, "runs", limit):
            yield each

    async def cancel(self, name: str) -> run_pb2.Run:
        """Ask a run to stop. One that has ended stays as it is."""
        return await self._stub.CancelRun(pb.CancelRunRequest(name=self._name(name)))

    async def watch(self, start_revision: int = 0) -> AsyncIterator[pb.RunEvent]:
        """Every change of the project's runs, from now or from a revision on."""
        request = pb.WatchRunsRequest(parent=self._connection.project, start_revision=start_revision)
        async for message in self._stub.WatchRuns(request):
            for event in message.events:
                yield event

    async def metrics(self, name: str, key: str = "") -> AsyncIterator[run_pb2.MetricPoint]:
        """The points of a run, by step."""
        request = pb.ListMetricsRequest(parent=self._name(name), key=key)
        async for each in pages(self._stub.ListMetrics, request, "points"):
            yield each

    async def follow(self, name: str) -> AsyncIterator[pb.WatchMetricsResponse]:
        """The run and its new points as they arrive, until it has ended, over restarts of the services too."""
        request = pb.WatchMetricsRequest(parent=self._name(name))
        failures = 0
        while True:
            try:
                async for message in self._stub.WatchMetrics(request):
                    failures = 0
                    yield message
                    if message.run.state in FINAL:
                        return
            except Unavailable:
                failures += 1
                if failures > RECONNECTS_MAX:
                    raise
            run = await self.get(name) if failures == 0 else None
            if run is not None and run.state in FINAL:
                yield pb.WatchMetricsResponse(run=run)
                return
            await asyncio.sleep(RECONNECT_SECONDS)

    async def wait(self, name: str) -> run_pb2.Run:
        """The run once it has ended, however it ended."""
        run = await self.get(name)
        async for message in self.follow(name):
            run = message.run
        return run

    async def logs(self, name: str, *, follow: bool = False) -> AsyncIterator[bytes]:
        """What the training process wrote. With `follow`, until it has ended."""
        run = await self.get(name)
        while follow and not run.job and run.state not in FINAL:
            await asyncio.sleep(JOB_POLL_SECONDS)
            run = await self.get(name)
        if run.job:
            async for piece in Jobs(self._connection).logs(run.job, follow=follow):
                yield piece

    def _name(self, name: str) -> str:
        return str(self._connection.name(RunName, name))
