"""The platform as one attempt of a run sees it: asynchronous, over the public door, with the attempt's own token."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from aios import transfer
from aios.client.pull import pull
from aios.client.transfer import Store, push
from aios.common.v1 import file_pb2
from aios.data.v1 import data_service_pb2, data_service_pb2_grpc, model_pb2
from aios.names import JobName, RunName
from aios.runtime.channel import door_channel
from aios.runtime.token_files import TokenSource
from aios.scheduler.v1 import job_pb2, scheduler_service_pb2, scheduler_service_pb2_grpc
from aios.trainer.v1 import run_pb2, trainer_service_pb2, trainer_service_pb2_grpc

TELL_TIMEOUT_SECONDS = 2.0  # what is said again soon is not waited for


class Platform:
    """Calls of one attempt. Every write carries the attempt's epoch, and raises StaleEpoch once a newer one has begun.

    Args:
        address: The public door, `http://host:port` or `https://host:port`.
        job: `projects/{project}/jobs/{job}`; the run has the same id.
    """

    def __init__(self, address: str, token: TokenSource, job: str, epoch: int) -> None:
        name = JobName.parse(job, "AIOS_JOB")
        self.run = str(RunName(name.project, name.job))
        self.job = job
        self.epoch = epoch
        self._channel = door_channel(address, token)
        self._trainer = trainer_service_pb2_grpc.TrainerServiceStub(self._channel)
        self._scheduler = scheduler_service_pb2_grpc.SchedulerServiceStub(self._channel)
        self._data = data_service_pb2_grpc.DataServiceStub(self._channel)
        self._http = transfer.client()
        self._store = Store(self._data, self._http, f"projects/{name.project}")

    async def get(self) -> run_pb2.Run:
        """The run: its spec above all."""
        return await self._trainer.GetRun(trainer_service_pb2.GetRunRequest(name=self.run))

    async def begin(self, restored_step: int) -> run_pb2.Run:
        """Take the run over."""
        request = trainer_service_pb2.BeginAttemptRequest(
            name=self.run, epoch=self.epoch, restored_step=restored_step
        )
        return await self._trainer.BeginAttempt(request)

    async def report(self, points: Sequence[run_pb2.MetricPoint], progress: run_pb2.Progress | None) -> bool:
        """Send metrics. True when the run was asked to stop."""
        request = trainer_service_pb2.ReportMetricsRequest(
            name=self.run, epoch=self.epoch, points=points, progress=progress
        )
        return (await self._trainer.ReportMetrics(request)).should_stop

    async def tell(self, progress: job_pb2.JobProgress) -> None:
        """Say to the scheduler how far the job has come: it plans with it."""
        request = scheduler_service_pb2.ReportJobProgressRequest(
            name=self.job, epoch=self.epoch, progress=progress
        )
        await self._scheduler.ReportJobProgress(request, timeout=TELL_TIMEOUT_SECONDS)

    async def complete(
        self, output: run_pb2.ModelOutput | None, outputs: Sequence[file_pb2.File]
    ) -> run_pb2.Run:
        """Say what the run made; returns once it is registered."""
        request = trainer_service_pb2.CompleteRunRequest(
            name=self.run, epoch=self.epoch, model=output, outputs=outputs
        )
        return await self._trainer.CompleteRun(request, timeout=30)

    async def newest_checkpoint(self) -> model_pb2.Checkpoint | None:
        """The checkpoint to go on from."""
        request = data_service_pb2.ListCheckpointsRequest(parent=self.run, page_size=1)
        found = (await self._data.ListCheckpoints(request)).checkpoints
        return found[0] if found else None

    async def save_checkpoint(self, step: int, folder: Path) -> None:
        """Store a folder as the checkpoint of a step: visible when all of it is there."""
        checkpoint = model_pb2.Checkpoint(step=step, epoch=self.epoch, files=await self.upload(folder))
        await self._data.CreateCheckpoint(
            data_service_pb2.CreateCheckpointRequest(parent=self.run, checkpoint=checkpoint)
        )

    async def upload(self, files: Path | Mapping[str, Path]) -> list[file_pb2.File]:
        """Store every file of a folder, or files by their path, and say what they are."""
        return await push(self._store, files)

    async def model_version(self, name: str) -> model_pb2.ModelVersion:
        """One version of a model."""
        return await self._data.GetModelVersion(data_service_pb2.GetModelVersionRequest(name=name))

    async def download(self, version: str, folder: Path) -> None:
        """Fetch every file of a dataset version, model version or checkpoint into a folder."""
        await pull(self._store, version, folder)

    async def close(self) -> None:
        """Let go of connections."""
        await self._http.aclose()
        await self._channel.close()
