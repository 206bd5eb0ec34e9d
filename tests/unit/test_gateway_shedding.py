"""What is refused while a service has too many calls: as much as needed, and nothing a moment later."""

from pathlib import Path

import pytest

from gateway.envoy import limits
from gateway.envoy.admin import Admin
from gateway.shedding import SURPLUS, TRACED_MAX, Shed, Shedder

CAPACITY, MOMENTS = 100, 12


def after(shed: Shed, offered: int, moments: int = MOMENTS) -> Shed:
    """Where it comes to when a service that can do CAPACITY calls in a moment is asked for `offered` in each."""
    for _ in range(moments):
        asked = round(offered * shed.passed)
        done = min(asked, CAPACITY)
        shed = shed.next(done, asked, asked - done)
    return shed


def test_what_a_service_can_do_is_not_refused() -> None:
    assert after(Shed(), CAPACITY) == Shed()
    assert after(Shed(), 0) == Shed()


def test_a_few_refused_are_no_overload() -> None:
    assert Shed().next(95, 100, 5) == Shed()


@pytest.mark.parametrize("times", [2, 5, 50])
def test_as_many_pass_as_keep_the_service_at_work(times: int) -> None:
    shed = after(Shed(), times * CAPACITY)
    assert shed.busy
    assert times * CAPACITY * shed.passed == pytest.approx(min(SURPLUS, times) * CAPACITY, rel=0.05)


def test_calls_from_before_are_answered_while_nobody_finds_a_place() -> None:
    """The many that were let in before are still many: those answered count, not those let in."""
    shed = Shed().next(CAPACITY, 5 * CAPACITY, 5 * CAPACITY)
    assert shed.passed == pytest.approx(SURPLUS / 5)
    assert Shed(True, 0.5).next(0, 10, 10).passed > 0, "never all: what is not let in is not counted"


def test_it_is_over_when_it_is_over() -> None:
    shed = after(Shed(), 5 * CAPACITY)
    assert after(shed, CAPACITY // 4, moments=4) == Shed()
    assert after(shed, 0, moments=4) == Shed()


def test_what_envoy_is_told() -> None:
    assert Shed().settings("data") == {
        "circuit_breakers.data.default.max_requests": str(limits.CALLS_AT_ONCE),
        "aios.refused.data": "0",
    }
    assert Shed(True, 0.25).settings("data") == {
        "circuit_breakers.data.default.max_requests": str(limits.CALLS_AT_ONCE_BUSY),
        "aios.refused.data": "75",
    }


def test_refusals_are_hardly_traced() -> None:
    shedder = Shedder(Admin(Path("nowhere")))
    assert shedder.traced_max == 1
    shedder.shed["data"] = Shed(busy=True)
    assert shedder.traced_max == TRACED_MAX
