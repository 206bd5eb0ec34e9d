"""What is too large or too often is refused, and the refusal says what to change."""

from collections.abc import Iterator

import grpc
import httpx
import pytest

from aios.errors import AiosError, ResourceExhausted
from aios.runtime.status import from_rpc_error
from aios.runtime.wire import MESSAGE_BYTES_MAX
from gateway.envoy import limits
from gateway.http.exchange import BODY_BYTES_MAX
from tests.doors.callers import PROJECT, Caller
from tests.doors.live import Live
from tests.service.envoy_stack import Stack, envoy

RATE = 20
GET_JOB = "/aios.scheduler.v1.SchedulerService/GetJob"


@pytest.fixture(scope="module")
def slow_door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An Envoy that lets each token make few calls."""
    with envoy(tmp_path_factory.mktemp("slow"), calls_per_second=RATE) as running:
        yield running


def test_a_token_that_calls_too_often_is_told_when_to_come_back(slow_door: Stack) -> None:
    replies = [slow_door.get("/v1/x", slow_door.bearer(jti="eager")) for _ in range(5 * RATE)]
    refused = [reply for reply in replies if reply.status_code != 200]
    assert len(replies) - len(refused) >= RATE
    assert refused, f"{5 * RATE} calls at once passed a limit of {RATE} a second"
    for reply in refused:
        assert (reply.status_code, reply.json()["reason"]) == (429, "RATE_LIMITED")
        assert reply.headers["retry-after"] == str(limits.RATE_RETRY_SECONDS)
    assert slow_door.get("/v1/x", slow_door.bearer(jti="calm")).status_code == 200, (
        "others have their own share"
    )


def test_over_grpc_the_same_refusal_carries_retry_info(slow_door: Stack) -> None:
    headers = slow_door.bearer(jti="eager over grpc")
    error = next(filter(None, (_error_of(slow_door, headers) for _ in range(10 * RATE))))
    assert isinstance(error, ResourceExhausted)
    assert error.reason == "RATE_LIMITED"
    assert error.retry_after is not None
    assert error.retry_after.total_seconds() == limits.RATE_RETRY_SECONDS


def test_how_long_a_client_waits_passes_the_door_and_who_it_claims_to_be_does_not(slow_door: Stack) -> None:
    claimed = {"x-aios-timeout": "2.5", "x-aios-role": "admin", "x_aios_role": "admin", "x-said-timeout": "9"}
    seen = slow_door.get("/v1/x", slow_door.bearer(jti="patient") | claimed).json()["headers"]
    assert seen["x-aios-timeout"] == "2.5"
    assert seen["x-aios-role"] == "editor"
    assert not {"x_aios_role", "x-said-timeout"} & set(seen)
    assert "x-aios-timeout" not in slow_door.get("/v1/x", slow_door.bearer(jti="patient")).json()["headers"]


def test_a_body_that_is_too_large_is_refused_at_both_http_doors(
    live: Live, everyone: dict[str, Caller]
) -> None:
    body = b'{"job": "' + b"x" * BODY_BYTES_MAX + b'"}'
    for address in (live.address, live.http_behind):
        reply = httpx.post(
            f"{address}/v1/projects/{PROJECT}/jobs",
            content=body,
            headers=everyone["editor"].headers | {"content-type": "application/json"},
            trust_env=False,
        )
        assert (reply.status_code, reply.json()["reason"]) == (413, "BODY_TOO_LARGE")
        assert str(BODY_BYTES_MAX) in reply.text or f"{BODY_BYTES_MAX >> 20} MiB" in reply.text


def test_a_message_that_is_too_large_is_refused_by_every_process(
    live: Live, everyone: dict[str, Caller]
) -> None:
    body = b"\x0a" + b"\xff" * MESSAGE_BYTES_MAX
    for target in (live.stack.target, live.targets["scheduler"]):
        with grpc.insecure_channel(target) as channel:
            _call_once(channel, everyone["editor"])
            with pytest.raises(grpc.RpcError) as refused:
                channel.unary_unary(GET_JOB)(body, metadata=everyone["editor"].metadata, timeout=10)  # type: ignore[arg-type]
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert str(MESSAGE_BYTES_MAX) in str(refused.value.details())


def test_headers_that_are_too_large_are_refused_with_the_limit(
    live: Live, everyone: dict[str, Caller]
) -> None:
    headers = everyone["viewer"].headers | {"x-large": "x" * (limits.HEADERS_KIB_MAX * 1024)}
    reply = httpx.get(f"{live.address}/v1/caller", headers=headers, trust_env=False)
    assert reply.status_code == 431
    assert f"{limits.HEADERS_KIB_MAX} KiB" in reply.json()["detail"]


def test_metadata_that_is_too_large_is_refused_with_the_limit(
    live: Live, everyone: dict[str, Caller]
) -> None:
    metadata = (*everyone["viewer"].metadata, ("x-large", "x" * 20_000))
    with grpc.insecure_channel(live.stack.target) as channel:
        _call_once(channel, everyone["viewer"])
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary(GET_JOB)(b"", metadata=metadata, timeout=10)  # type: ignore[arg-type]
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "metadata size exceeds" in str(refused.value.details())


def _call_once(channel: grpc.Channel, caller: Caller) -> None:
    """The limits hold once both ends of a connection have agreed on its settings: see docs/security.md."""
    with pytest.raises(grpc.RpcError):
        channel.unary_unary(GET_JOB)(b"", metadata=caller.metadata, timeout=10)  # type: ignore[arg-type]


def _error_of(stack: Stack, headers: dict[str, str]) -> AiosError | None:
    try:
        stack.call(GET_JOB, b"", headers)
    except grpc.RpcError as error:
        return from_rpc_error(error)
    return None
