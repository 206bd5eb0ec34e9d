"""The rules of tokens: which role one may carry, how long it lives, what it claims. Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from aios.errors import FailedPrecondition, InvalidArgument, NotFound
from aios.names import JobName
from aios.runtime import roles

MEMBERS = ("viewer", "annotator", "reviewer", "editor", "admin")
"""Roles that a member can have. Those of the platform's own processes are no member's."""
TTL = timedelta(days=30)
TTL_MAX = timedelta(days=366)
TTL_MIN = timedelta(minutes=1)  # a shorter one would end within the clock skew that doors allow
WORKER_TTL = timedelta(hours=1)  # the agent renews it; a stolen one is worth little


class TokenNotFound(NotFound):
    """The project has no such token."""

    reason = "TOKEN_NOT_FOUND"


class RoleTooHigh(InvalidArgument):
    """A token may not do more than the member it speaks for."""

    reason = "ROLE_TOO_HIGH"


class NotAMember(FailedPrecondition):
    """Only a member can have a token. Add the member first."""

    reason = "NOT_A_MEMBER"


@dataclass(frozen=True)
class Token:
    """What is kept of a token. The signed text is not."""

    id: str
    project: str
    member: str
    role: str
    display_name: str
    create_time: datetime
    expire_time: datetime
    revoke_time: datetime | None = None

    def claims(self) -> dict[str, Any]:
        """What the signed text says."""
        return {"sub": self.member, "jti": self.id, "project": self.project, "role": self.role}


def worker_claims(job: JobName, epoch: int, token_id: str) -> dict[str, Any]:
    """What a worker's token says: it is one attempt of one job, and nothing else."""
    return {
        "sub": str(job),
        "jti": token_id,
        "project": job.project,
        "role": "worker",
        "job": str(job),
        "epoch": epoch,
    }


def member_role(role: str, field: str) -> str:
    """The role, if a member may have it.

    Raises:
        InvalidArgument: naming `field`.
    """
    if role not in MEMBERS:
        raise InvalidArgument.of(
            field, f"must be one of {', '.join(f'ROLE_{name.upper()}' for name in MEMBERS)}"
        )
    return role


def granted_role(asked: str, member: str) -> str:
    """The role of a token for a member: the member's own, or one that may do less.

    Args:
        asked: Empty for the member's own.

    Raises:
        RoleTooHigh: more was asked for than the member has.
    """
    if not asked:
        return member
    if not roles.ROLES[member_role(asked, "role")] <= roles.ROLES[member]:
        raise RoleTooHigh(
            f"the member is {member}: a token cannot be {asked}",
            fields={"role": f"ask for {member} or less, or raise the member's role first"},
            role=asked,
            member_role=member,
        )
    return asked


def lifetime(asked: timedelta | None) -> timedelta:
    """How long a token lives.

    Raises:
        InvalidArgument: outside the bounds.
    """
    ttl = TTL if asked is None else asked
    if not TTL_MIN <= ttl <= TTL_MAX:
        raise InvalidArgument.of(
            "ttl", f"must be {TTL_MIN.total_seconds():.0f}s to {TTL_MAX.total_seconds():.0f}s"
        )
    return ttl
