"""A steady, open load of predictions at both doors, from clients that never ask again themselves."""

import asyncio
import collections
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import grpc
import httpx
import numpy as np
from tritonclient.grpc import service_pb2 as oip

from bench.stack import Stack

INFER = "/inference.GRPCInferenceService/ModelInfer"
CALL_SECONDS = 20.0
GRPC_SHARE = 0.75  # of the requests
PER_SECOND = 120.0


@dataclass(frozen=True)
class Answer:
    """What one prediction got, on the monotonic clock."""

    door: str
    began: float
    seconds: float
    revision: str = ""
    """Who answered it."""
    error: str = ""


@dataclass
class Seen:
    """All answers so far."""

    answers: list[Answer] = field(default_factory=list)

    def since(self, began: float) -> list[Answer]:
        """Those to requests made since."""
        return [answer for answer in self.answers if answer.began >= began]

    def by_revision(self, began: float) -> collections.Counter[str]:
        """How many each revision answered of those asked since."""
        return collections.Counter(answer.revision for answer in self.since(began) if not answer.error)


def request(deployment: str, value: float = 1.0) -> oip.ModelInferRequest:
    """One row of the same number."""
    message = oip.ModelInferRequest(model_name=deployment)
    message.inputs.add(name="x", datatype="FP32", shape=[1, 64])
    message.raw_input_contents.append(np.full((1, 64), value, np.float32).tobytes())
    return message


@asynccontextmanager
async def steady(running: Stack, deployment: str, per_second: float = PER_SECOND) -> AsyncIterator[Seen]:
    """Predictions at a fixed pace, whether those before were answered or not, until the block ends."""
    seen, under_way = Seen(), set[asyncio.Task[None]]()
    async with AsyncExitStack() as entered:
        over_grpc, over_http = await _doors(running, deployment, entered)

        async def ask(door: str, call: Callable[[], Awaitable[str]]) -> None:
            began, revision, error = time.monotonic(), "", ""
            try:
                revision = await call()
            except grpc.aio.AioRpcError as failed:
                error = f"{failed.code().name} {failed.details()}"
            except (httpx.HTTPError, OSError) as failed:
                error = f"{type(failed).__name__} {failed}"
            seen.answers.append(Answer(door, began, time.monotonic() - began, revision, error))

        async def keep_asking() -> None:
            due = time.monotonic()
            while True:
                due += random.expovariate(per_second)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                door, call = ("grpc", over_grpc) if random.random() < GRPC_SHARE else ("http", over_http)
                task = asyncio.create_task(ask(door, call))
                under_way.add(task)
                task.add_done_callback(under_way.discard)

        asking = asyncio.create_task(keep_asking())
        try:
            yield seen
        finally:
            asking.cancel()
            await asyncio.gather(asking, *under_way, return_exceptions=True)


async def _doors(
    running: Stack, deployment: str, entered: AsyncExitStack
) -> tuple[Callable[[], Awaitable[str]], Callable[[], Awaitable[str]]]:
    """A prediction over gRPC and one over HTTP; each returns the revision that answered."""
    address, bearer = running.state.address, f"Bearer {running.token}"
    channel = await entered.enter_async_context(grpc.aio.insecure_channel(address.removeprefix("http://")))
    web = await entered.enter_async_context(
        httpx.AsyncClient(
            base_url=address, headers={"authorization": bearer}, trust_env=False, timeout=CALL_SECONDS
        )
    )
    message = request(deployment).SerializeToString()
    infer = channel.unary_unary(INFER, bytes, bytes)
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": [1.0] * 64}]}

    async def over_grpc() -> str:
        call = infer(message, metadata=(("authorization", bearer),), timeout=CALL_SECONDS)
        await call
        headers = await call.initial_metadata()
        return str(headers.get("x-aios-revision", ""))

    async def over_http() -> str:
        response = await web.post(f"/v2/models/{deployment}/infer", json=body)
        if response.status_code != httpx.codes.OK:
            raise httpx.HTTPError(f"{response.status_code} {response.text[:200]}")
        return response.headers["x-aios-revision"]

    return over_grpc, over_http
