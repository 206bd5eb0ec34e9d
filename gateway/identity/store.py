"""Projects, members and tokens in SQL."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import (
    Column,
    ColumnElement,
    ForeignKeyConstraint,
    Index,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    and_,
    delete,
    insert,
    select,
    update,
)

from aios import records
from aios.records import Page, Tx, UtcTime
from gateway.identity.projects import Member, MemberNotFound, Project, ProjectExists, ProjectNotFound
from gateway.identity.tokens import Token, TokenNotFound

metadata = MetaData()

projects = Table(
    "projects",
    metadata,
    Column("id", String(63), primary_key=True),
    Column("display_name", Text, nullable=False),
    Column("create_time", UtcTime, nullable=False),
)

members = Table(
    "members",
    metadata,
    Column("project", String(63), nullable=False),
    Column("id", String(63), nullable=False),
    Column("role", String(16), nullable=False),
    Column("create_time", UtcTime, nullable=False),
    PrimaryKeyConstraint("project", "id"),
    ForeignKeyConstraint(["project"], ["projects.id"]),
)

# Kept after the member is gone: a revoked token must stay known until it expires.
tokens = Table(
    "tokens",
    metadata,
    Column("id", String(63), primary_key=True),
    Column("project", String(63), nullable=False),
    Column("member", String(63), nullable=False),
    Column("role", String(16), nullable=False),
    Column("display_name", Text, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("expire_time", UtcTime, nullable=False),
    Column("revoke_time", UtcTime, nullable=True),
    ForeignKeyConstraint(["project"], ["projects.id"]),
    Index("tokens_project_create_time", "project", "create_time", "id"),
    Index("tokens_revoke_time", "revoke_time"),
)

records.add_to(metadata)


def create_project(tx: Tx, project: Project) -> None:
    """
    Raises:
        ProjectExists: the id is taken.
    """
    if tx.execute(select(projects.c.id).where(projects.c.id == project.id)).first() is not None:
        raise ProjectExists(f"project {project.id} exists: choose another project_id", project=project.id)
    tx.execute(insert(projects).values(vars(project)))


def get_project(tx: Tx, project: str) -> Project:
    """
    Raises:
        ProjectNotFound: there is none.
    """
    row = tx.execute(select(projects).where(projects.c.id == project)).one_or_none()
    if row is None:
        raise ProjectNotFound(f"there is no project {project}", project=project)
    return Project(**row._mapping)


def list_projects(tx: Tx, page: Page, only: str | None) -> tuple[list[Project], str]:
    """By name; `only` one of them where given."""
    query = select(projects) if only is None else select(projects).where(projects.c.id == only)
    rows, token = page.fetch(tx, query, by=(projects.c.id,))
    return [Project(**row._mapping) for row in rows], token


def set_member(tx: Tx, member: Member) -> Member:
    """Add a member or change the role of one; returns it as stored.

    Raises:
        ProjectNotFound: there is no such project.
    """
    get_project(tx, member.project)
    found = find_member(tx, member.project, member.id)
    if found is None:
        tx.execute(insert(members).values(vars(member)))
        return member
    tx.execute(update(members).where(_is(found)).values(role=member.role))
    return Member(found.project, found.id, member.role, found.create_time)


def find_member(tx: Tx, project: str, member: str) -> Member | None:
    query = select(members).where(members.c.project == project, members.c.id == member)
    row = tx.execute(query).one_or_none()
    return None if row is None else Member(**row._mapping)


def list_members(tx: Tx, page: Page, project: str) -> tuple[list[Member], str]:
    """By name."""
    query = select(members).where(members.c.project == project)
    rows, token = page.fetch(tx, query, by=(members.c.id,))
    return [Member(**row._mapping) for row in rows], token


def delete_member(tx: Tx, project: str, member: str, now: datetime) -> list[Token]:
    """Remove a member and revoke what speaks for it; returns the tokens revoked.

    Raises:
        MemberNotFound: there is no such member.
    """
    found = find_member(tx, project, member)
    if found is None:
        raise MemberNotFound(f"project {project} has no member {member}", project=project, member=member)
    tx.execute(delete(members).where(_is(found)))
    query = select(tokens).where(
        tokens.c.project == project, tokens.c.member == member, tokens.c.revoke_time.is_(None)
    )
    return [revoke_token(tx, project, row.id, now) for row in tx.execute(query).all()]


def add_token(tx: Tx, token: Token) -> None:
    tx.execute(insert(tokens).values(vars(token)))


def list_tokens(tx: Tx, page: Page, project: str) -> tuple[list[Token], str]:
    """Newest first."""
    query = select(tokens).where(tokens.c.project == project)
    rows, token = page.fetch(tx, query, by=(tokens.c.create_time, tokens.c.id), descending=True)
    return [Token(**row._mapping) for row in rows], token


def revoke_token(tx: Tx, project: str, token: str, now: datetime) -> Token:
    """The token, revoked now or before.

    Raises:
        TokenNotFound: the project has no such token.
    """
    mine = (tokens.c.project == project, tokens.c.id == token)
    tx.execute(update(tokens).where(*mine, tokens.c.revoke_time.is_(None)).values(revoke_time=now))
    row = tx.execute(select(tokens).where(*mine)).one_or_none()
    if row is None:
        raise TokenNotFound(f"project {project} has no token {token}", project=project, token=token)
    return Token(**row._mapping)


def revoked_tokens(tx: Tx, now: datetime) -> Sequence[Token]:
    """Every revoked token that has not expired, oldest first."""
    query = select(tokens).where(tokens.c.revoke_time.is_not(None), tokens.c.expire_time > now)
    return [Token(**row._mapping) for row in tx.execute(query.order_by(tokens.c.revoke_time, tokens.c.id))]


def _is(member: Member) -> ColumnElement[bool]:
    return and_(members.c.project == member.project, members.c.id == member.id)
