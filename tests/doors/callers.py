"""Who calls: every kind of caller there is, each with a token of its own."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aios.runtime import roles, tokens
from tests.doors.rpcs import Rpc

PROJECT, OTHER_PROJECT = "doors", "others"
JOB = f"projects/{PROJECT}/jobs/mine"


class Outcome(Enum):
    """What a door says to a call, as far as permissions go."""

    UNKNOWN_CALLER = "refused: no valid token"
    DENIED = "refused: the role may not"
    NOT_FOUND = "refused: not in the caller's project"
    PASSED = "let through"
    BROKEN = "failed by a fault of ours"


@dataclass(frozen=True)
class Caller:
    """One caller: what it is called, the token it sends, and what the token says."""

    name: str
    token: str | None
    role: str | None
    """None for one whom nobody may let in."""
    project: str = PROJECT

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.token is None else {"authorization": f"Bearer {self.token}"}

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return tuple(self.headers.items())

    @property
    def everywhere(self) -> bool:
        return self.role in ("service", "node")

    def expected(self, rpc: Rpc, project: str = PROJECT) -> Outcome:
        """What every door must say, by the permission in the proto and the table of roles."""
        if rpc.permission == roles.PUBLIC:
            return Outcome.PASSED
        if self.role is None:
            return Outcome.UNKNOWN_CALLER
        if not roles.allows(self.role, rpc.permission):
            return Outcome.DENIED
        if rpc.lies_in_a_project and not self.everywhere and self.project != project:
            return Outcome.NOT_FOUND
        return Outcome.PASSED


def callers(key: Ed25519PrivateKey, revoked: str) -> dict[str, Caller]:
    """Every caller, by name.

    Args:
        key: What the stack under test signs tokens with.
        revoked: A token that was good and is revoked.
    """

    def token(role: str, project: str = PROJECT, ttl_seconds: float = 3600, **claims: Any) -> str:
        body = {"sub": f"the-{role}", "jti": f"doors-{role}-{project}", "project": project, "role": role}
        return tokens.mint(key, body | claims, ttl_seconds=ttl_seconds)

    stranger = {"sub": "x", "jti": "x", "project": PROJECT, "role": "admin", "platform": True}
    found = [
        Caller("nobody", None, None),
        Caller("expired", token("admin", ttl_seconds=-3600), None),
        Caller("revoked", revoked, None),
        Caller("forger", tokens.mint(tokens.new_key(), stranger, ttl_seconds=3600), None),
        *(
            Caller(role, token(role), role)
            for role in ("viewer", "annotator", "reviewer", "editor", "admin", "service", "node")
        ),
        Caller("worker", token("worker", job=JOB, epoch=1), "worker"),
        Caller("others' admin", token("admin", OTHER_PROJECT), "admin", OTHER_PROJECT),
    ]
    return {caller.name: caller for caller in found}


NAMES = tuple(callers(tokens.new_key(), ""))
