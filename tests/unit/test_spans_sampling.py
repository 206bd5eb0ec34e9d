"""Traces under load: whole ones are kept, and those who make them are told to make fewer."""

import os
from collections import Counter

from gateway.telemetry.sampling import Sampler


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_every_trace_is_kept_while_there_are_few() -> None:
    clock = Clock()
    sampler = Sampler(100, clock)
    for _ in range(500):
        clock.now += 0.02
        assert sampler.keeps(os.urandom(16))
    assert sampler.wanted(1.0) == 1.0


def test_under_load_whole_traces_are_kept_and_about_as_many_spans_as_promised() -> None:
    clock = Clock()
    sampler = Sampler(100, clock)
    kept: Counter[bytes] = Counter()
    for second in range(4):
        traces = [os.urandom(16) for _ in range(500)]
        found = [trace for trace in traces * 2 if sampler.keeps(trace)]
        assert len(found) <= 200, "even in the first second"
        if second:
            assert 60 < len(found) < 140
            kept.update(found)
        clock.now += 1
    assert set(kept.values()) == {2}, "both spans of a trace, or none"
    assert sampler.wanted(1.0) == 0.1


def test_the_share_grows_again_when_the_load_is_over() -> None:
    clock = Clock()
    sampler = Sampler(100, clock)
    clock.now += 1
    share = 0.1
    for _ in range(5):
        share = sampler.wanted(share)
    assert share == 1.0
