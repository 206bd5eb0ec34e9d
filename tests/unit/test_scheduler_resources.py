"""Resource vectors, and which device type serves a request for any."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.scheduler.resources import Resources, grant, serves, shortages

TYPES = st.sampled_from(["gpu/H100", "gpu/K80", "tpu", "fpga"])
ASKED = st.sampled_from(["gpu", "gpu/H100", "gpu/K80", "tpu", "any"])


def vectors(types: st.SearchStrategy[str]) -> st.SearchStrategy[Resources]:
    return st.builds(
        Resources,
        st.integers(0, 10),
        st.integers(0, 10),
        st.dictionaries(types, st.integers(0, 4), max_size=3),
    )


@given(vectors(TYPES), vectors(TYPES))
def test_what_is_taken_and_given_back_leaves_no_trace(one: Resources, other: Resources) -> None:
    assert one - other + other == one


@given(vectors(TYPES), vectors(ASKED))
def test_a_grant_is_the_request_in_types_that_are_there(free: Resources, request: Resources) -> None:
    granted = grant(free, request)
    if granted is None:
        assert shortages(request, free, free)
        return
    assert free.holds(granted)
    assert shortages(request, free, free) == []
    assert sum(granted.accelerators.values()) == sum(request.accelerators.values())
    assert set(granted.accelerators) <= set(free.accelerators)
    assert (granted.cpu_millis, granted.memory_bytes) == (request.cpu_millis, request.memory_bytes)


def test_any_gpu_takes_the_type_with_the_fewest_left_and_never_mixes() -> None:
    free = Resources(accelerators={"gpu/H100": 4, "gpu/K80": 2})
    assert grant(free, Resources(accelerators={"gpu": 2})) == Resources(accelerators={"gpu/K80": 2})
    assert grant(free, Resources(accelerators={"gpu": 3})) == Resources(accelerators={"gpu/H100": 3})
    assert grant(free, Resources(accelerators={"gpu": 5})) is None


def test_an_exact_type_is_served_before_any() -> None:
    free = Resources(accelerators={"gpu/H100": 1, "gpu/K80": 1})
    request = Resources(accelerators={"gpu": 1, "gpu/H100": 1})
    assert grant(free, request) == free


@pytest.mark.parametrize(
    ("kind", "asked", "answer"),
    [
        ("gpu/H100", "gpu", True),
        ("gpu/H100", "gpu/H100", True),
        ("gpu/H100", "gpu/H1", False),
        ("gpu/H100", "tpu", False),
        ("gpus/x", "gpu", False),
        ("tpu", "tpu", True),
    ],
)
def test_serves(kind: str, asked: str, answer: bool) -> None:
    assert serves(kind, asked) is answer
