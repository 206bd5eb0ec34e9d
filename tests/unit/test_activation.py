"""Requests for a revision at zero wait for it, and are counted as long as they do."""

import asyncio

from gateway.activation import SERVICE, Activator, Revision, _request_type
from gateway.envoy.counts import Key

DIGITS = Revision("vision", "digits", "r1")
KEY = Key(*DIGITS, "grpc")


async def test_who_waits_goes_on_when_the_revision_is_awake() -> None:
    activator = Activator()
    await activator.let_sleep([DIGITS])
    held = [asyncio.create_task(activator.hold(KEY)) for _ in range(3)]
    await activator.asked.wait()
    await activator.let_sleep([DIGITS, Revision("vision", "other", "r1")])
    assert not any(each.done() for each in held)
    await activator.let_sleep([])
    await asyncio.gather(*held)
    assert activator.count()[KEY] == 0


async def test_nobody_waits_for_what_does_not_sleep() -> None:
    activator = Activator()
    await activator.let_sleep([DIGITS])
    await activator.hold(Key("vision", "digits", "r2", "http"))
    assert not activator.asked.is_set()


async def test_who_still_waits_is_counted_again() -> None:
    """Whoever was told once and restarted hears of it at the next look."""
    activator = Activator()
    await activator.let_sleep([DIGITS])
    held = asyncio.create_task(activator.hold(KEY))
    await activator.asked.wait()
    assert activator.count()[KEY] == 1
    assert activator.count()[KEY] == 2
    held.cancel()
    await asyncio.gather(held, return_exceptions=True)
    assert activator.count()[KEY] == 2


def test_what_envoy_says_of_a_request_is_read() -> None:
    # field 1 (attributes) > field 10 (context_extensions) > key, value; beside a field that is passed over
    entry = b"\x0a\x07project\x12\x06vision"
    inside = b"\x52" + bytes([len(entry)]) + entry + b"\x22\x02\x08\x01"
    read = _request_type().FromString(b"\x0a" + bytes([len(inside)]) + inside)
    assert dict(read.attributes.context_extensions) == {"project": "vision"}
    assert f"{read.DESCRIPTOR.file.package}.Authorization" == SERVICE
