"""Resource vectors, and which device type serves a request for any."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios.errors import InvalidArgument
from services.scheduler.resources import Resources, free_of, grant, serves, shortages
from services.scheduler.specs import JobSpec, check

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


HALF = Resources(1, accelerator_millis={"gpu": 500})


def test_a_share_is_of_one_device_and_not_of_what_several_have_left() -> None:
    node = Resources(4, accelerators={"gpu/A": 2}, device_memory={"gpu/A": 16})
    part = Resources(1, accelerator_millis={"gpu/A": 700})
    left = free_of(node, [replace(part, shared_device=1), replace(part, shared_device=2)])
    assert (left.accelerators, left.accelerator_millis) == ({}, {"gpu/A": 300})
    assert grant(left, HALF) is None
    [lacking] = shortages(HALF, left, node)
    assert (lacking.figure(lacking.wanted), lacking.unit, lacking.figure(lacking.free)) == (
        "0.5",
        "of one gpu/A",
        "0.3",
    )
    left = free_of(node, [replace(part, shared_device=1)])
    granted = grant(left, HALF)
    assert granted is not None
    assert granted.named() == {"cpu": 1, "gpu/A": 0.5}


def test_a_share_with_more_memory_than_a_device_has_is_not_granted() -> None:
    node = Resources(4, accelerators={"gpu/A": 1}, device_memory={"gpu/A": 16 << 30})
    asked = replace(HALF, device_memory={"gpu": 17 << 30})
    assert grant(node, asked) is None
    assert [(each.unit, each.figure(each.wanted)) for each in shortages(asked, node, node)] == [
        ("of memory on one gpu/A", "17.0 GiB")
    ]


@pytest.mark.parametrize(
    ("asked", "replicas", "problem"),
    [
        (Resources(1, accelerator_millis={"gpu": 1500}), 1, "1 to 999"),
        (Resources(1, accelerator_millis={"cpu": 500}), 1, "is no accelerator"),
        (Resources(1, accelerators={"memory": 5}), 1, "is no accelerator"),
        (Resources(1, accelerators={"gpu": 1}, accelerator_millis={"gpu": 500}), 1, "ask for 2 whole ones"),
        (Resources(1, accelerator_millis={"gpu": 500, "tpu": 500}), 1, "of one type alone"),
        (Resources(1, accelerator_millis={"gpu": 500}), 2, "NCCL"),
        (Resources(1, accelerators={"gpu": 1}, device_memory={"gpu": 1}), 1, "all of its memory"),
    ],
)
def test_what_is_no_share_is_refused(asked: Resources, replicas: int, problem: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        check(JobSpec(("x",), asked, replicas=replicas))
    assert problem in " ".join(error.value.fields.values())


def test_budgets_and_counters_are_counted_like_the_rest() -> None:
    node = Resources(4, budgets={"license.solver": 2, "scratch": 8 << 30})
    asked = Resources(1, budgets={"license.solver": 1, "scratch": 6 << 30})
    assert grant(node, asked) == asked
    [lacking] = shortages(asked, free_of(node, [asked]), node)
    assert (lacking.code, lacking.unit, lacking.figure(lacking.wanted), lacking.figure(lacking.free)) == (
        "BUDGET",
        "scratch",
        "6.0 GiB",
        "2.0 GiB",
    )
    for wrong in ({"solver": 1}, {"license.solver": -1}):
        with pytest.raises(InvalidArgument):
            check(JobSpec(("x",), Resources(1, budgets=wrong)))
