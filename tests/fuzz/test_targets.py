"""A slice of the search in `python -m tests.fuzz`: where it began, what it found before, and what is random."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.doors.sizes import EXAMPLES
from tests.fuzz.targets import SEEDS, TARGETS


def test_every_target_has_a_beginning() -> None:
    assert TARGETS.keys() == SEEDS.keys()


@pytest.mark.parametrize("target", TARGETS)
def test_no_bytes_break_a_parser(target: str) -> None:
    run = TARGETS[target]
    for seed in (b"", b"\0", *SEEDS[target]):
        run(seed)

    @settings(
        max_examples=25 * EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(st.one_of(st.binary(max_size=200), *map(changed, SEEDS[target])))
    def survives(data: bytes) -> None:
        run(data)

    survives()


def changed(seed: bytes) -> st.SearchStrategy[bytes]:
    """A seed with a piece of it replaced."""
    places = st.tuples(st.integers(0, len(seed)), st.integers(0, len(seed)))
    return st.tuples(places, st.binary(max_size=20)).map(
        lambda change: seed[: min(change[0])] + change[1] + seed[max(change[0]) :]
    )
