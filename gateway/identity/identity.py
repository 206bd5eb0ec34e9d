"""What the identity domain does, one method per wish: rules applied, change stored and told in one transaction."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aios.errors import InvalidArgument
from aios.names import JobName, MemberName, TokenName, check_id, new_id
from aios.records import Database, Tx
from aios.runtime.clock import Clock
from aios.runtime.tokens import mint
from gateway.identity import mapping, projects, store, tokens
from gateway.identity.projects import Member, Project
from gateway.identity.tokens import Token

FIRST_PROJECT, FIRST_MEMBER = "default", "operator"
"""There from the first start. The installation's own operator token speaks for this member."""
HEARTBEAT_SECONDS = 10.0  # a door that hears nothing for two of these asks again


class Identity:
    """Projects, members and tokens over their records."""

    def __init__(self, db: Database, key: Ed25519PrivateKey, clock: Clock) -> None:
        self._db = db
        self._key = key
        self._clock = clock

    async def prepare(self) -> None:
        """Make the first project and its first member. A second call changes nothing."""

        def seed(tx: Tx) -> None:
            try:
                store.get_project(tx, FIRST_PROJECT)
            except projects.ProjectNotFound:
                self.create_project(tx, FIRST_PROJECT, "")
                self._set_member(tx, MemberName(FIRST_PROJECT, FIRST_MEMBER), "admin")

        await self._db.write(seed)

    def create_project(self, tx: Tx, project_id: str, display_name: str) -> Project:
        """Make a project inside the caller's transaction."""
        check_id(project_id, "project_id", projects.PROJECT_ID_CHARS_MAX)
        project = Project(project_id, _shown_name(display_name, "project.display_name"), self._clock.now())
        store.create_project(tx, project)
        tx.emit("project", project.id, project.id, "created", mapping.project_to_proto(project))
        return project

    async def set_member(self, name: MemberName, role: str) -> Member:
        """Add a member or change its role."""
        check_id(name.member, "member.name", projects.MEMBER_ID_CHARS_MAX)
        tokens.member_role(role, "member.role")
        return await self._db.write(lambda tx: self._set_member(tx, name, role))

    async def delete_member(self, name: MemberName) -> None:
        """Remove a member and revoke its tokens."""

        def delete(tx: Tx) -> None:
            revoked = store.delete_member(tx, name.project, name.member, self._clock.now())
            tx.emit("member", name.project, name.member, "deleted", {"name": str(name)})
            for token in revoked:
                _tell_revoked(tx, token)

        await self._db.write(delete)

    async def create_token(
        self, project: str, member: str, role: str, ttl: timedelta | None, display_name: str
    ) -> tuple[Token, str]:
        """A token for a member, and its signed text, which nobody keeps.

        Args:
            role: Empty for the member's own.
        """
        lives = tokens.lifetime(ttl)
        shown = _shown_name(display_name, "display_name")

        def add(tx: Tx) -> Token:
            store.get_project(tx, project)
            found = store.find_member(tx, project, member)
            if found is None:
                raise tokens.NotAMember(
                    f"{member} is no member of {project}: add it first, or name another member",
                    fields={"member": "name a member of the project"},
                    project=project,
                    member=member,
                )
            now = self._clock.now()
            granted = tokens.granted_role(role, found.role)
            token = Token(new_id("tok"), project, member, granted, shown, now, now + lives)
            store.add_token(tx, token)
            tx.emit("token", project, token.id, "created", mapping.token_to_proto(token))
            return token

        token = await self._db.write(add)
        return token, self._sign(token.claims(), lives)

    async def revoke_token(self, name: TokenName) -> Token:
        """Refuse a token from now on, at every door."""

        def revoke(tx: Tx) -> Token:
            token = store.revoke_token(tx, name.project, name.token, self._clock.now())
            _tell_revoked(tx, token)
            return token

        return await self._db.write(revoke)

    def worker_token(self, job: JobName, epoch: int) -> tuple[str, datetime]:
        """The signed text of a token for one attempt of a job, and when it ends.

        Not kept: a newer epoch makes it useless, and it ends within the hour.
        """
        if epoch < 1:
            raise InvalidArgument.of("epoch", "must be the attempt's number, from 1")
        claims = tokens.worker_claims(job, epoch, new_id("wrk"))
        return self._sign(claims, tokens.WORKER_TTL), self._clock.now() + tokens.WORKER_TTL

    async def revoked(self) -> Sequence[Token]:
        """Every revoked token that has not expired."""
        return await self._db.read(lambda tx: store.revoked_tokens(tx, self._clock.now()))

    async def revocations(self) -> AsyncIterator[Sequence[Token]]:
        """The revoked tokens: now, at each change, and again as a heartbeat."""
        while True:
            seen = self._db.revision
            yield await self.revoked()
            try:
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    await self._db.wait(seen)
            except TimeoutError:
                continue

    def _set_member(self, tx: Tx, name: MemberName, role: str) -> Member:
        member = store.set_member(tx, Member(name.project, name.member, role, self._clock.now()))
        tx.emit("member", name.project, name.member, "set", mapping.member_to_proto(member))
        return member

    def _sign(self, claims: dict[str, object], lives: timedelta) -> str:
        now = self._clock.now().timestamp()
        return mint(self._key, claims, ttl_seconds=lives.total_seconds(), now=now)


def _tell_revoked(tx: Tx, token: Token) -> None:
    tx.emit("token", token.project, token.id, "revoked", mapping.token_to_proto(token))


def _shown_name(text: str, field: str) -> str:
    if len(text) > projects.DISPLAY_NAME_CHARS_MAX:
        raise InvalidArgument.of(field, f"must be at most {projects.DISPLAY_NAME_CHARS_MAX} characters")
    return text
