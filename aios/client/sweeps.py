"""Sweeps: made, followed, cancelled."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from aios.client.connection import Connection, pages, request_id
from aios.client.runs import Runs
from aios.client.sweepspec import parse
from aios.errors import Unavailable
from aios.names import SweepName
from aios.trainer.v1 import sweep_pb2, sweep_service_pb2_grpc
from aios.trainer.v1 import sweep_service_pb2 as pb

FINAL = frozenset(
    {sweep_pb2.Sweep.STATE_SUCCEEDED, sweep_pb2.Sweep.STATE_FAILED, sweep_pb2.Sweep.STATE_CANCELLED}
)
POLL_SECONDS = 0.5
FAILURES_MAX = 60  # about half a minute without an answer


class Sweeps:
    """`client.sweeps`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = sweep_service_pb2_grpc.SweepServiceStub(connection.channel)

    async def create(
        self,
        spec: sweep_pb2.SweepSpec | Mapping[str, Any],
        *,
        sweep_id: str = "",
        request: str = "",
        code: str | Path | None = None,
    ) -> sweep_pb2.Sweep:
        """Make a sweep; once this returns, it will not be lost.

        Args:
            spec: The message, or what a sweep.yaml says.
            code: Folder that a command is started in: it is packed, but for what its .gitignore and .aiosignore name.
            request: Idempotency key, where a retry must outlive this process.
        """
        if not isinstance(spec, sweep_pb2.SweepSpec):
            parsed = parse(spec)
            spec, sweep_id, code = parsed.spec, sweep_id or parsed.sweep_id, code or parsed.code
            if parsed.requirements:
                lock = Path(code or "", parsed.requirements)
                spec.run.requirements = await Runs(self._connection).push_requirements(lock)
        if spec.run.command and code:
            version = await Runs(self._connection).push_code(Path(code))
            spec.run.code = version.removeprefix(f"{self._connection.project}/")
        return await self._stub.CreateSweep(
            pb.CreateSweepRequest(
                parent=self._connection.project,
                sweep_id=sweep_id,
                sweep=sweep_pb2.Sweep(spec=spec),
                request_id=request or request_id(),
            )
        )

    async def get(self, name: str) -> sweep_pb2.Sweep:
        """One sweep, with its best trials."""
        return await self._stub.GetSweep(pb.GetSweepRequest(name=self._name(name)))

    async def list(self, limit: int | None = None) -> AsyncIterator[sweep_pb2.Sweep]:
        """The project's sweeps, newest first."""
        request = pb.ListSweepsRequest(parent=self._connection.project)
        async for each in pages(self._stub.ListSweeps, request, "sweeps", limit):
            yield each

    async def trials(self, name: str) -> AsyncIterator[sweep_pb2.Trial]:
        """Every trial, by number."""
        request = pb.ListTrialsRequest(parent=self._name(name))
        async for each in pages(self._stub.ListTrials, request, "trials"):
            yield each

    async def cancel(self, name: str) -> sweep_pb2.Sweep:
        """Ask a sweep to stop, and its runs with it. One that has ended stays as it is."""
        return await self._stub.CancelSweep(pb.CancelSweepRequest(name=self._name(name)))

    async def report(self, name: str) -> str:
        """What was found so far, as one HTML file."""
        return (await self._stub.GetSweepReport(pb.GetSweepReportRequest(name=self._name(name)))).html

    async def follow(self, name: str) -> AsyncIterator[sweep_pb2.Sweep]:
        """The sweep whenever it has changed, until it has ended, over restarts of the services too."""
        told, failures = None, 0
        while True:
            try:
                sweep, failures = await self.get(name), 0
            except Unavailable:
                failures += 1
                if failures > FAILURES_MAX:
                    raise
            else:
                if sweep != told:
                    told = sweep
                    yield sweep
                if sweep.state in FINAL:
                    return
            await asyncio.sleep(POLL_SECONDS)

    async def wait(self, name: str) -> sweep_pb2.Sweep:
        """The sweep once it has ended, however it ended."""
        sweep = await self.get(name)
        async for each in self.follow(name):
            sweep = each
        return sweep

    def _name(self, name: str) -> str:
        return str(self._connection.name(SweepName, name))
