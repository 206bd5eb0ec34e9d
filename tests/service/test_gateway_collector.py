"""The gateway passes spans on to a collector: whose they are stays true, and a collector that is away costs nothing."""

import asyncio
import time
from collections.abc import Iterator

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from gateway.telemetry.collector import WAITING_MAX, Collector
from tests.collector import Receiver, receiving


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


def export(trace: int, **about: str) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    for key, value in about.items():
        resource.resource.attributes.add(key=key.replace("_", ".")).value.string_value = value
    resource.scope_spans.add().spans.add(trace_id=trace.to_bytes(16), span_id=b"12345678", name="step")
    return request


async def arrived(receiver: Receiver, count: int) -> None:
    async with asyncio.timeout(20):
        while len(receiver.spans) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_spans_arrive_and_a_workers_are_its_projects_whatever_they_say(receiver: Receiver) -> None:
    collector = Collector(receiver.address)
    sending = asyncio.create_task(collector.run())
    theirs, ours = export(1, service_name="job", aios_project="another"), export(2, service_name="trainer")
    collector.offer(theirs, "vision")
    collector.offer(ours, None)
    await arrived(receiver, 2)
    sending.cancel()
    about = {span.trace_id[-1]: attributes for span, attributes in receiver.spans}
    assert about == {
        1: {"service.name": "job", "aios.project": "vision"},
        2: {"service.name": "trainer"},
    }
    # What is kept here is what was sent.
    assert theirs == export(1, service_name="job", aios_project="another")


async def test_a_collector_that_is_away_holds_nobody_up() -> None:
    with receiving() as gone:
        address = gone.address
    collector = Collector(address)
    sending = asyncio.create_task(collector.run())
    began = time.monotonic()
    for trace in range(2 * WAITING_MAX):
        collector.offer(export(trace), None)
    assert time.monotonic() - began < 1
    sending.cancel()
