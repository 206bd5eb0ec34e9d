"""A revoked token is refused everywhere within five seconds, and what it had opened ends."""

import asyncio
import json
from typing import Any

import grpc
import httpx

from aios.runtime.status import from_rpc_error
from tests.doors.callers import OTHER_PROJECT, Caller
from tests.doors.live import REVOKED_SECONDS, Live, refused_by
from tests.doors.rpcs import Rpc, rpcs

STREAMS = {"SchedulerService.WatchJobs", "TrainerService.WatchRuns", "InferenceService.WatchDeployments"}
"""What an admin can keep open, in each process that has such a thing."""


async def test_a_revoked_token_is_refused_by_every_door_and_loses_its_streams(live: Live) -> None:
    issued = await asyncio.to_thread(live.issue, OTHER_PROJECT)
    caller = Caller("soon revoked", issued["secret"], "admin", OTHER_PROJECT)
    assert not any((await refused_by(live, issued["secret"])).values())

    watched = [rpc for rpc in rpcs() if str(rpc) in STREAMS]
    opened = [asyncio.Event() for _ in range(2 * len(watched) + 1)]
    endings = [
        asyncio.create_task(_end_of_grpc(target, rpc, caller, is_open))
        for (target, rpc), is_open in zip(
            [(live.stack.target, rpc) for rpc in watched]
            + [(live.targets[rpc.process], rpc) for rpc in watched],
            opened,
            strict=False,
        )
    ]
    endings.append(asyncio.create_task(_end_of_http(live.address, caller, opened[-1])))
    await asyncio.gather(*(is_open.wait() for is_open in opened))

    await asyncio.to_thread(live.revoke, issued)
    async with asyncio.timeout(REVOKED_SECONDS):
        assert set(await asyncio.gather(*endings)) == {"TOKEN_REVOKED"}
        await _refused_everywhere(live, caller)


async def test_a_token_of_a_member_who_is_removed_is_refused_too(live: Live) -> None:
    issued = await asyncio.to_thread(live.issue, OTHER_PROJECT)
    await asyncio.to_thread(live.operate, "DELETE", f"/v1/{issued['token']['member']}")
    async with asyncio.timeout(REVOKED_SECONDS):
        await _refused_everywhere(live, Caller("removed", issued["secret"], "admin", OTHER_PROJECT))


async def _refused_everywhere(live: Live, caller: Caller) -> None:
    """Return once no door takes the token."""
    # Asked again and again: doors tell nobody when they have heard.
    while not all((await refused_by(live, caller.token or "")).values()) or await _predicts(live, caller):  # noqa: ASYNC110
        await asyncio.sleep(0.05)


async def _end_of_grpc(target: str, rpc: Rpc, caller: Caller, is_open: asyncio.Event) -> str:
    """The reason that a watch ends with."""
    async with grpc.aio.insecure_channel(target) as channel:
        watch: Any = channel.unary_stream(rpc.path)
        stream = watch(rpc.request(OTHER_PROJECT).SerializeToString(), metadata=caller.metadata)
        try:
            async for _ in stream:
                is_open.set()
        except grpc.aio.AioRpcError as error:
            return from_rpc_error(error).reason
    return "it ended well"


async def _end_of_http(address: str, caller: Caller, is_open: asyncio.Event) -> str:
    """The same for a stream of lines."""
    async with (
        httpx.AsyncClient(base_url=address, trust_env=False, timeout=30) as client,
        client.stream("GET", f"/v1/projects/{OTHER_PROJECT}/jobs:watch", headers=caller.headers) as stream,
    ):
        last = ""
        async for line in stream.aiter_lines():
            is_open.set()
            last = line or last
    return str(json.loads(last)["error"]["reason"])


async def _predicts(live: Live, caller: Caller) -> bool:
    """Whether either door of predictions still knows the token: no model is there, so 404 is a yes."""
    async with httpx.AsyncClient(base_url=live.address, headers=caller.headers, trust_env=False) as client:
        over_http = await client.post("/v2/models/any/infer", json={})
        over_grpc = await client.post(
            "/inference.GRPCInferenceService/ModelInfer",
            content=b"\0\0\0\0\0",
            headers={"content-type": "application/grpc"},
        )
    return over_http.status_code != 401 or over_grpc.headers.get("grpc-status") != "16"
