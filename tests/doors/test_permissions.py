"""Every method and every route, times every kind of caller, through every door: who gets in is what the table says."""

from collections.abc import Iterable

import pytest

from tests.doors.callers import NAMES, PROJECT, Caller, Outcome
from tests.doors.doors import GrpcDoor, HttpDoor
from tests.doors.live import Live
from tests.doors.rpcs import Rpc, rpcs


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("door", ["Envoy", "processes"])
async def test_grpc_lets_in_whom_the_table_names(
    live: Live, everyone: dict[str, Caller], door: str, name: str
) -> None:
    targets = live.through_envoy if door == "Envoy" else live.targets
    said = await GrpcDoor(targets).ask(everyone[name], rpcs())
    assert not list(wrong(everyone[name], said))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("door", ["Envoy", "gateway"])
async def test_http_lets_in_whom_the_table_names(
    live: Live, everyone: dict[str, Caller], door: str, name: str
) -> None:
    address = live.address if door == "Envoy" else live.http_behind
    # Client streams are for gRPC: over HTTP the answer is 501, whoever asks, and nothing happens.
    asked = [rpc for rpc in rpcs() if not rpc.method.client_streaming]
    said = await HttpDoor(address).ask(everyone[name], asked)
    assert len(said) >= len([rpc for rpc in asked if rpc.resources])
    assert not list(wrong(everyone[name], said))


def wrong(caller: Caller, said: Iterable[tuple[str, Rpc, Outcome]]) -> Iterable[str]:
    """Answers that are not what the table says. NOT_FOUND is fine where the caller may look: there is nothing."""
    for what, rpc, outcome in said:
        expected = caller.expected(rpc, PROJECT)
        accepted = {expected, Outcome.NOT_FOUND} if expected is Outcome.PASSED else {expected}
        if outcome not in accepted:
            yield f"{caller.name} at {what} ({rpc.permission}): {outcome.value}, not {expected.value}"
