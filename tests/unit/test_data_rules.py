"""The pure rules of models, checkpoints and lineage, and what a presigned URL signs."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios.blobs.presign import Credentials, presign
from aios.errors import InvalidArgument, StaleEpoch
from aios.names import CheckpointName, RunName
from services.data import checkpoints, models
from services.data.checkpoints import CheckpointNotFound, check_fence, name_of
from services.data.lineage import Direction, Edge, Neighbours, Relation, walk

RUN = RunName("p", "r")
NAMES = st.sampled_from([f"n{number}" for number in range(8)])
GRAPHS = st.lists(st.builds(Edge, NAMES, NAMES, st.sampled_from(Relation)), max_size=40)


@given(GRAPHS, NAMES, st.sampled_from([Direction.UP, Direction.DOWN]))
def test_a_walk_finds_every_reachable_edge_once_and_ends_also_on_cycles(
    edges: list[Edge], start: str, way: Direction
) -> None:
    found = walk(start, way, neighbours(edges)).edges

    reachable: set[str] = set()
    grown = {start}
    while grown - reachable:
        reachable |= grown
        grown = {other_end(edge, way) for edge in edges if near_end(edge, way) in reachable} | reachable
    assert set(found) == {edge for edge in edges if near_end(edge, way) in reachable}
    assert len(found) == len(set(found))


@given(GRAPHS, NAMES)
def test_both_ways_are_what_it_came_from_and_what_came_from_it(edges: list[Edge], start: str) -> None:
    both = set(walk(start, Direction.BOTH, neighbours(edges)).edges)
    up, down = (set(walk(start, way, neighbours(edges)).edges) for way in (Direction.UP, Direction.DOWN))
    assert both == up | down


def test_a_walk_is_nearest_first_and_says_when_it_stops_early() -> None:
    line = [Edge(f"n{number}", f"n{number + 1}", Relation.PRODUCED) for number in range(5)]

    some = walk("n0", Direction.DOWN, neighbours(line), limit=3)

    assert (list(some.edges), some.truncated) == (line[:3], True)
    assert not walk("n0", Direction.DOWN, neighbours(line), limit=5).truncated


@given(st.integers(1, 10**6 - 1), st.integers(0, 10**12 - 1))
def test_a_checkpoints_name_gives_its_position_back(epoch: int, step: int) -> None:
    assert checkpoints.position(name_of(RUN, epoch, step)) == (epoch, step)


@pytest.mark.parametrize("text", ["1-2", "x", "000001-", "000001-000000000001-", "000001-00000000000²"])
def test_a_name_that_no_checkpoint_has_is_not_found(text: str) -> None:
    with pytest.raises(CheckpointNotFound):
        checkpoints.position(CheckpointName("p", "r", text))


def test_names_sort_as_their_numbers_do() -> None:
    numbers = [(1, 5), (1, 40), (2, 3), (10, 0)]
    assert sorted(str(name_of(RUN, *each)) for each in numbers) == [
        str(name_of(RUN, *each)) for each in numbers
    ]


@given(st.integers(1, 99), st.integers(0, 99))
def test_only_an_attempt_that_nobody_replaced_passes_the_fence(epoch: int, newest: int) -> None:
    if epoch >= newest:
        check_fence(RUN, epoch, newest)
    else:
        with pytest.raises(StaleEpoch):
            check_fence(RUN, epoch, newest)


@pytest.mark.parametrize(("epoch", "step"), [(0, 1), (10**6, 1), (1, -1), (1, 10**12)])
def test_positions_out_of_range_are_refused(epoch: int, step: int) -> None:
    with pytest.raises(InvalidArgument):
        checkpoints.check_position(epoch, step, "checkpoint")


@pytest.mark.parametrize(
    ("text", "number"),
    [("1", 1), ("12", 12), ("01", None), ("0", None), ("-1", None), ("x", None), ("²", None)],
)
def test_a_version_is_a_number_without_leading_zeros(text: str, number: int | None) -> None:
    assert models.version_number(text) == number


@pytest.mark.parametrize("alias", ["", "latest", "@champion", "A", "a/b"])
def test_an_alias_is_a_plain_word(alias: str) -> None:
    with pytest.raises(InvalidArgument):
        models.check_alias(alias, "alias")


def test_a_presigned_url_follows_the_published_example() -> None:
    """Source: AWS documentation, "Authenticating requests: using query parameters", its worked example."""
    made = presign(
        "GET",
        "https://examplebucket.s3.amazonaws.com",
        "/test.txt",
        credentials=Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
        region="us-east-1",
        now=datetime(2013, 5, 24, tzinfo=UTC),
        lifetime=timedelta(days=1),
    )
    assert made.url.endswith(
        "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    )


def test_secrets_do_not_show_when_printed() -> None:
    credentials = Credentials("key", "hunter2")
    made = presign("GET", "http://h", "/b/k", credentials=credentials, region="r",
                   now=datetime(2026, 1, 1, tzinfo=UTC), lifetime=timedelta(minutes=1))  # fmt: skip
    assert "hunter2" not in repr(credentials)
    assert "Signature" not in repr(made)


def neighbours(edges: list[Edge]) -> Neighbours:
    def of(names: Iterable[str], way: Direction) -> list[Edge]:
        wanted = set(names)
        return [edge for edge in edges if near_end(edge, way) in wanted]

    return of


def near_end(edge: Edge, way: Direction) -> str:
    return edge.target if way is Direction.UP else edge.source


def other_end(edge: Edge, way: Direction) -> str:
    return edge.source if way is Direction.UP else edge.target
