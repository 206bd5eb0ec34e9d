"""A run's job as two replicas: one of them is the run to the platform, the other helps and says nothing."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from aios.data.v1 import data_service_pb2, data_service_pb2_grpc
from aios.runtime.server import Service
from aios.scheduler.v1 import scheduler_service_pb2, scheduler_service_pb2_grpc
from aios.trainer.v1 import run_pb2, trainer_service_pb2, trainer_service_pb2_grpc
from tests.servers import free_port
from tests.service import neighbours

TRAIN = Path(__file__).parents[1] / "ranks" / "train.py"
STEPS = 8


class Trainer(trainer_service_pb2_grpc.TrainerServiceServicer):
    """Knows one run, and who began and completed it."""

    def __init__(self, spec: run_pb2.RunSpec) -> None:
        self.run = run_pb2.Run(name="projects/demo/runs/gang", spec=spec)
        self.began = self.completed = 0
        self.steps: list[int] = []

    async def GetRun(self, request: trainer_service_pb2.GetRunRequest, context: Any) -> run_pb2.Run:
        return self.run

    async def BeginAttempt(
        self, request: trainer_service_pb2.BeginAttemptRequest, context: Any
    ) -> run_pb2.Run:
        self.began += 1
        return self.run

    async def ReportMetrics(
        self, request: trainer_service_pb2.ReportMetricsRequest, context: Any
    ) -> trainer_service_pb2.ReportMetricsResponse:
        self.steps += [point.step for point in request.points if point.key == "loss"]
        return trainer_service_pb2.ReportMetricsResponse()

    async def CompleteRun(self, request: trainer_service_pb2.CompleteRunRequest, context: Any) -> run_pb2.Run:
        self.completed += 1
        return self.run


class Scheduler(scheduler_service_pb2_grpc.SchedulerServiceServicer):
    async def ReportJobProgress(
        self, request: scheduler_service_pb2.ReportJobProgressRequest, context: Any
    ) -> scheduler_service_pb2.ReportJobProgressResponse:
        return scheduler_service_pb2.ReportJobProgressResponse()


class Data(data_service_pb2_grpc.DataServiceServicer):
    async def ListCheckpoints(
        self, request: data_service_pb2.ListCheckpointsRequest, context: Any
    ) -> data_service_pb2.ListCheckpointsResponse:
        return data_service_pb2.ListCheckpointsResponse()


async def test_two_replicas_train_one_model_and_one_speaks(tmp_path: Path) -> None:
    spec = run_pb2.RunSpec(
        command=[sys.executable, str(TRAIN)],
        launcher=run_pb2.RunSpec.LAUNCHER_TORCHRUN,
        processes=1,
        replicas=2,
    )
    spec.hyperparameters.update({"steps": STEPS})
    trainer = Trainer(spec)
    settings = neighbours.settings_in(tmp_path)
    door = [
        Service(trainer_service_pb2_grpc.add_TrainerServiceServicer_to_server, trainer),
        Service(scheduler_service_pb2_grpc.add_SchedulerServiceServicer_to_server, Scheduler()),
        Service(data_service_pb2_grpc.add_DataServiceServicer_to_server, Data()),
    ]
    token = tmp_path / "token"
    token.write_text(neighbours.token("worker", job="projects/demo/jobs/gang", epoch=1))
    port = free_port()

    async def replica(rank: int) -> str:
        scratch = tmp_path / str(rank)
        scratch.mkdir()
        environment = {
            **os.environ,
            "AIOS_ADDRESS": f"http://{settings.gateway_address}",
            "AIOS_TOKEN_FILE": str(token),
            "AIOS_JOB": "projects/demo/jobs/gang",
            "AIOS_EPOCH": "1",
            "AIOS_SCRATCH": str(scratch),
            "AIOS_TELEMETRY": "false",
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "RANK": str(rank),
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.trainer.job"),
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        assert process.returncode == 0, said.decode()
        return said.decode()

    async with neighbours.neighbour(settings, "gateway", door):
        logs = await asyncio.gather(replica(0), replica(1))
    finals = [log.split(" final ")[1].split()[0] for log in logs]
    assert finals[0] == finals[1]
    assert [f"rank {rank} final" in log for rank, log in enumerate(logs)] == [True, True]
    assert trainer.steps == list(range(1, STEPS + 1))
    # The job and the script that it starts, each once, as of a run that has one replica.
    assert (trainer.began, trainer.completed) == (2, 2)
