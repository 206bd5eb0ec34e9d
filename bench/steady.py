"""A steady, open load of every kind of call through the public door, from clients that never ask again themselves."""

import asyncio
import itertools
import random
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc
import httpx
import numpy as np
import tritonclient.grpc.aio as triton
from google.protobuf.message import Message
from tritonclient.utils import InferenceServerException

from aios.data.v1 import data_service_pb2 as data
from aios.identity.v1 import identity_pb2
from aios.identity.v1 import identity_service_pb2 as identity
from aios.inference.v1 import inference_service_pb2 as inference
from aios.scheduler.v1 import scheduler_service_pb2 as scheduler
from aios.stack.state import StackState
from aios.trainer.v1 import trainer_service_pb2 as trainer
from bench import model

PROJECT = "projects/default"
CALL_SECONDS = 20.0
CALLS_PER_SECOND = 8.0  # of each kind

READS: Sequence[tuple[str, Message]] = (
    ("scheduler.v1.SchedulerService/ListJobs", scheduler.ListJobsRequest(parent=PROJECT, page_size=5)),
    ("data.v1.DataService/ListDatasets", data.ListDatasetsRequest(parent=PROJECT, page_size=5)),
    ("trainer.v1.TrainerService/ListRuns", trainer.ListRunsRequest(parent=PROJECT, page_size=5)),
    ("inference.v1.InferenceService/ListDeployments", inference.ListDeploymentsRequest(parent=PROJECT)),
    ("identity.v1.IdentityService/GetCaller", identity.GetCallerRequest()),
)
PATHS = ("jobs", "datasets", "runs", "deployments", "members")

Call = Callable[[], Awaitable[object]]


class Stack(Protocol):
    """What answers."""

    @property
    def state(self) -> StackState: ...

    @property
    def token(self) -> str: ...


@dataclass(frozen=True)
class Answer:
    """What one call got, on the monotonic clock."""

    kind: str
    began: float
    seconds: float
    error: str = ""


@dataclass
class Steady:
    """What all calls have got so far."""

    answers: list[Answer] = field(default_factory=list)

    def between(self, began: float, ended: float) -> list[Answer]:
        """Those to calls made in a stretch of time."""
        return [answer for answer in self.answers if began <= answer.began < ended]


@asynccontextmanager
async def steady(running: Stack, *, predictions: bool) -> AsyncIterator[Steady]:
    """Calls at a fixed pace, whether those before were answered or not, until the block ends."""
    seen, under_way = Steady(), set[asyncio.Task[None]]()

    async def ask(kind: str, call: Call) -> None:
        began = time.monotonic()
        error = ""
        try:
            await call()
        except (grpc.RpcError, httpx.HTTPError, InferenceServerException, OSError) as failed:
            error = _said(failed)
        seen.answers.append(Answer(kind, began, time.monotonic() - began, error))

    async def keep_asking(kind: str, call: Call) -> None:
        while True:
            await asyncio.sleep(random.uniform(0.5, 1.5) / CALLS_PER_SECOND)
            task = asyncio.create_task(ask(kind, call))
            under_way.add(task)
            task.add_done_callback(under_way.discard)

    async with AsyncExitStack() as entered:
        calls = await _calls(running, entered, predictions=predictions)
        asking = [asyncio.create_task(keep_asking(kind, call)) for kind, call in calls.items()]
        try:
            yield seen
        finally:
            for each in asking:
                each.cancel()
            await asyncio.gather(*asking, *under_way, return_exceptions=True)


async def _calls(running: Stack, entered: AsyncExitStack, *, predictions: bool) -> dict[str, Call]:
    target = running.state.address.removeprefix("http://")
    headers = {"authorization": f"Bearer {running.token}"}
    channel = await entered.enter_async_context(grpc.aio.insecure_channel(target))
    web = await entered.enter_async_context(
        httpx.AsyncClient(
            base_url=running.state.address, headers=headers, trust_env=False, timeout=CALL_SECONDS
        )
    )
    numbers = itertools.count()

    def over_grpc(method: str, request: Callable[[], Message]) -> Call:
        send: Any = channel.unary_unary(f"/aios.{method}", lambda message: message.SerializeToString(), bytes)
        return lambda: send(request(), metadata=tuple(headers.items()), timeout=CALL_SECONDS)

    def over_http(method: str, path: Callable[[], str], body: object = None) -> Call:
        async def send() -> None:
            response = await web.request(method, path(), json=body)
            if response.status_code != 200:
                raise httpx.HTTPError(f"{response.status_code} {response.text}")

        return send

    def new_dataset() -> Message:
        return data.CreateDatasetRequest(
            parent=PROJECT, dataset_id=f"g-{next(numbers)}", request_id=str(uuid.uuid4())
        )

    def member() -> Message:
        one = identity_pb2.Member(name=f"{PROJECT}/members/someone", role=identity_pb2.ROLE_VIEWER)
        return identity.SetMemberRequest(member=one)

    calls = {f"grpc {path.split('/')[1]}": over_grpc(path, lambda r=request: r) for path, request in READS}  # type: ignore[misc]
    calls["grpc CreateDataset"] = over_grpc("data.v1.DataService/CreateDataset", new_dataset)
    calls["grpc SetMember"] = over_grpc("identity.v1.IdentityService/SetMember", member)
    calls |= {f"http GET {path}": over_http("GET", lambda p=path: f"/v1/{PROJECT}/{p}") for path in PATHS}  # type: ignore[misc]
    # Without a request_id: nobody may send it twice.
    datasets = f"/v1/{PROJECT}/datasets?datasetId=h-"
    calls["http POST datasets"] = over_http("POST", lambda: f"{datasets}{next(numbers)}", {})
    if predictions:
        server = await entered.enter_async_context(triton.InferenceServerClient(target))
        tensor = triton.InferInput("x", [1, 64], "FP32")
        tensor.set_data_from_numpy(np.zeros((1, 64), np.float32))
        calls["grpc predict"] = lambda: server.infer(
            model.NAME, [tensor], headers=headers, client_timeout=CALL_SECONDS
        )
        calls["http predict"] = over_http("POST", lambda: f"/v2/models/{model.NAME}/infer", model.INFER)
    return calls


def _said(failed: Exception) -> str:
    if isinstance(failed, grpc.aio.AioRpcError):
        return f"{failed.code().name} {failed.details()}"
    return f"{type(failed).__name__} {failed}"
