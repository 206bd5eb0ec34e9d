"""Page sizes and tokens."""

import base64
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios.errors import InvalidArgument
from aios.records.pages import PAGE_SIZE, PAGE_SIZE_MAX, Page, PageTokenInvalid, encode
from aios.scheduler.v1 import scheduler_service_pb2

KEYS = st.lists(
    st.one_of(
        st.text(), st.integers(-(2**63), 2**63 - 1), st.datetimes(timezones=st.just(UTC)), st.booleans()
    ),
    min_size=1,
    max_size=3,
)


def listing(
    parent: str = "projects/p", size: int = 0, token: str = ""
) -> scheduler_service_pb2.ListJobsRequest:
    return scheduler_service_pb2.ListJobsRequest(parent=parent, page_size=size, page_token=token)


@pytest.mark.parametrize(("asked", "given"), [(0, PAGE_SIZE), (7, 7), (10**6, PAGE_SIZE_MAX)])
def test_zero_is_the_default_and_too_large_is_coerced(asked: int, given: int) -> None:
    assert Page.of(listing(size=asked)).size == given


def test_a_negative_size_is_refused_by_name() -> None:
    with pytest.raises(InvalidArgument) as caught:
        Page.of(listing(size=-1))

    assert "page_size" in caught.value.fields


@given(KEYS)
def test_a_token_gives_back_the_key_it_was_made_of(key: list[object]) -> None:
    token = encode(key, Page.of(listing()).query)

    assert Page.of(listing(token=token, size=3)).after == tuple(key)


def test_a_token_of_another_query_is_refused() -> None:
    token = encode(["a"], Page.of(listing()).query)

    with pytest.raises(PageTokenInvalid):
        Page.of(listing(parent="projects/other", token=token))


@given(st.data())
def test_a_damaged_token_is_refused(data: st.DataObject) -> None:
    token = encode([datetime(2026, 1, 1, tzinfo=UTC), "id"], Page.of(listing()).query)
    raw = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    damaged = base64.urlsafe_b64encode(raw).decode().rstrip("=")

    with pytest.raises(PageTokenInvalid):
        Page.of(listing(token=damaged))


@given(st.text(min_size=1, max_size=80))
def test_any_other_text_is_refused_as_a_token(text: str) -> None:
    try:
        request = listing(token=text)
    except (UnicodeEncodeError, ValueError):
        return  # no message can carry it

    with pytest.raises(PageTokenInvalid):
        Page.of(request)
