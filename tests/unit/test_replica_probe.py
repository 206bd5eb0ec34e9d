"""When a replica counts as dead, and what it is asked."""

import json

import pytest

from services.inference.replica.probe import TIMEOUT_SECONDS, Probe, ProbeFailed, watch, zeros_request
from services.inference.replica.spec import Signature, Tensor

SIGNATURE = Signature((Tensor("x", "FP32", (-1, 4)), Tensor("t", "BYTES", ())), (), 8)


class Scripted(Probe):
    """Answers as told, one letter a probe: `.` answers, `x` fails, `b` is late behind other requests."""

    def __init__(self, script: str) -> None:
        super().__init__("127.0.0.1", 1, "m", SIGNATURE)
        self.script = list(script)
        self.timeouts: list[float] = []
        self.done = 0

    async def ask(self, timeout: float) -> None:
        self.timeouts.append(timeout)
        match self.script.pop(0):
            case "x":
                raise ProbeFailed("dead")
            case "b":
                self.done += 5
                raise ProbeFailed("late")
        self.done += 1

    async def completed(self) -> int:
        return self.done


async def now(_: float) -> None:
    """A clock that does not make the test wait."""


@pytest.mark.parametrize("script", ["xx", ".xx", "..x.xx", "bbbxx", "xbxx"])
async def test_two_failures_in_a_row_end_it_and_nothing_less(script: str) -> None:
    probe = Scripted(script)
    with pytest.raises(ProbeFailed, match="dead"):
        await watch(probe, 0.001, now)
    assert probe.script == []


async def test_a_slow_model_gets_more_time() -> None:
    fast, slow = Scripted("xx"), Scripted("xx")
    for probe, warm_seconds in ((fast, 0.001), (slow, 0.5)):
        with pytest.raises(ProbeFailed):
            await watch(probe, warm_seconds, now)
    assert fast.timeouts == [TIMEOUT_SECONDS] * 2
    assert slow.timeouts == [5.0] * 2


def test_the_smallest_request_has_one_of_everything_free() -> None:
    body, length = zeros_request(SIGNATURE)
    x, text = json.loads(body[:length])["inputs"]
    assert (x["shape"], x["parameters"]["binary_data_size"]) == ([1, 1, 4], 16)
    assert (text["shape"], text["parameters"]["binary_data_size"]) == ([1, 1], 4)
    assert body[length:] == bytes(20)
