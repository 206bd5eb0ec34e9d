"""Which role a token may carry, how long it lives, what a worker's says."""

import itertools
from datetime import timedelta

import pytest

from aios.errors import InvalidArgument
from aios.names import JobName
from aios.runtime import roles
from gateway.identity import tokens


def test_a_token_has_the_members_role_unless_a_lower_one_is_asked_for() -> None:
    assert tokens.granted_role("", "editor") == "editor"
    assert tokens.granted_role("viewer", "editor") == "viewer"
    assert tokens.granted_role("editor", "editor") == "editor"


def test_a_token_cannot_do_more_than_its_member() -> None:
    with pytest.raises(tokens.RoleTooHigh) as caught:
        tokens.granted_role("admin", "editor")
    assert "raise the member's role first" in caught.value.fields["role"]


@pytest.mark.parametrize("role", ["worker", "service", "node", "operator", "root"])
def test_roles_of_the_platform_cannot_be_asked_for(role: str) -> None:
    with pytest.raises(InvalidArgument):
        tokens.granted_role(role, "admin")
    with pytest.raises(InvalidArgument):
        tokens.member_role(role, "role")


@pytest.mark.parametrize(
    "ladder", [("viewer", "editor", "admin"), ("annotator", "reviewer", "editor", "admin")]
)
def test_each_role_includes_those_below(ladder: tuple[str, ...]) -> None:
    for lower, higher in itertools.pairwise(ladder):
        assert roles.ROLES[lower] < roles.ROLES[higher]
        assert tokens.granted_role(lower, higher) == lower


def test_who_only_looks_cannot_label_and_who_only_labels_cannot_look() -> None:
    for asked, member in (("annotator", "viewer"), ("viewer", "annotator"), ("viewer", "reviewer")):
        with pytest.raises(tokens.RoleTooHigh):
            tokens.granted_role(asked, member)


def test_a_lifetime_has_bounds() -> None:
    assert tokens.lifetime(None) == timedelta(days=30)
    assert tokens.lifetime(timedelta(days=366)) == timedelta(days=366)
    for bad in (timedelta(0), timedelta(seconds=-1), timedelta(days=367)):
        with pytest.raises(InvalidArgument) as caught:
            tokens.lifetime(bad)
        assert "ttl" in caught.value.fields


def test_a_worker_is_one_attempt_of_one_job() -> None:
    claims = tokens.worker_claims(JobName("p", "j"), 3, "wrk-1")
    assert claims == {
        "sub": "projects/p/jobs/j",
        "jti": "wrk-1",
        "project": "p",
        "role": "worker",
        "job": "projects/p/jobs/j",
        "epoch": 3,
    }
