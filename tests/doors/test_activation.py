"""What Envoy asks the gateway about held requests is for Envoy alone."""

from typing import Any

import grpc
import pytest

from gateway import activation
from tests.doors.callers import Caller
from tests.doors.live import Live

CHECK = f"/{activation.SERVICE}/Check"


async def said(target: str, caller: Caller) -> grpc.StatusCode:
    async with grpc.aio.insecure_channel(target) as channel:
        try:
            check: Any = channel.unary_unary(CHECK)
            await check(b"", metadata=caller.metadata, timeout=10)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK


async def test_only_a_service_may_ask(live: Live, everyone: dict[str, Caller]) -> None:
    refusals = {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED}
    for caller in everyone.values():
        code = await said(live.targets["gateway"], caller)
        assert code in ({grpc.StatusCode.OK} if caller.role == "service" else refusals), caller.name


@pytest.mark.parametrize("name", ["service", "viewer"])
async def test_the_door_has_no_such_service(live: Live, everyone: dict[str, Caller], name: str) -> None:
    code = await said(live.stack.target, everyone[name])
    assert code in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.NOT_FOUND)
