"""Projects, their members and their tokens."""

from collections.abc import AsyncIterator
from datetime import timedelta

from google.protobuf import duration_pb2

from aios.client.connection import Connection, pages, request_id
from aios.errors import InvalidArgument
from aios.identity.v1 import identity_pb2, identity_service_pb2_grpc
from aios.identity.v1 import identity_service_pb2 as pb
from aios.names import MemberName, ProjectName, TokenName

ROLES = ("viewer", "annotator", "reviewer", "editor", "admin")


class Projects:
    """`client.projects`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = identity_service_pb2_grpc.IdentityServiceStub(connection.channel)

    async def caller(self) -> pb.Caller:
        """Who the token speaks for."""
        return await self._stub.GetCaller(pb.GetCallerRequest())

    async def create(self, project: str, display_name: str = "") -> identity_pb2.Project:
        """Make a project. Operators only."""
        return await self._stub.CreateProject(
            pb.CreateProjectRequest(
                project_id=project,
                project=identity_pb2.Project(display_name=display_name),
                request_id=request_id(),
            )
        )

    async def get(self, project: str = "") -> identity_pb2.Project:
        """One project; this client's where none is named."""
        return await self._stub.GetProject(pb.GetProjectRequest(name=self._project(project)))

    async def list(self, limit: int | None = None) -> AsyncIterator[identity_pb2.Project]:
        """The projects that the caller belongs to, by name."""
        async for each in pages(self._stub.ListProjects, pb.ListProjectsRequest(), "projects", limit):
            yield each

    async def members(
        self, project: str = "", limit: int | None = None
    ) -> AsyncIterator[identity_pb2.Member]:
        """A project's members, by name."""
        request = pb.ListMembersRequest(parent=self._project(project))
        async for each in pages(self._stub.ListMembers, request, "members", limit):
            yield each

    async def set_member(self, member: str, role: str, project: str = "") -> identity_pb2.Member:
        """Add a member, or change the role of one, to one of ROLES."""
        name = MemberName.parse(f"{self._project(project)}/members/{member}")
        return await self._stub.SetMember(
            pb.SetMemberRequest(member=identity_pb2.Member(name=str(name), role=role_of(role)))
        )

    async def remove_member(self, member: str, project: str = "") -> None:
        """Remove a member and revoke every token of that member in the project."""
        name = MemberName.parse(f"{self._project(project)}/members/{member}")
        await self._stub.DeleteMember(pb.DeleteMemberRequest(name=str(name)))

    def _project(self, project: str) -> str:
        return (
            str(ProjectName.parse(f"projects/{project.removeprefix('projects/')}"))
            if project
            else self._connection.project
        )


class Tokens:
    """`client.tokens`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = identity_service_pb2_grpc.IdentityServiceStub(connection.channel)

    async def create(
        self, *, member: str = "", role: str = "", ttl: timedelta | None = None, display_name: str = ""
    ) -> pb.CreateTokenResponse:
        """Issue a token. `secret` in the answer is its only copy."""
        lifetime = duration_pb2.Duration()
        if ttl is not None:
            lifetime.FromTimedelta(ttl)
        return await self._stub.CreateToken(
            pb.CreateTokenRequest(
                parent=self._connection.project,
                member=str(self._connection.name(MemberName, member)) if member else "",
                role=role_of(role) if role else identity_pb2.ROLE_UNSPECIFIED,
                ttl=lifetime if ttl is not None else None,
                display_name=display_name,
            )
        )

    async def list(self, limit: int | None = None) -> AsyncIterator[identity_pb2.Token]:
        """The project's tokens, newest first, without their secrets."""
        request = pb.ListTokensRequest(parent=self._connection.project)
        async for each in pages(self._stub.ListTokens, request, "tokens", limit):
            yield each

    async def revoke(self, token: str) -> identity_pb2.Token:
        """Revoke a token: refused at every door within five seconds."""
        name = self._connection.name(TokenName, token)
        return await self._stub.RevokeToken(pb.RevokeTokenRequest(name=str(name)))


def role_of(role: str) -> identity_pb2.Role.ValueType:
    """The message's value for one of ROLES."""
    if role not in ROLES:
        raise InvalidArgument.of("role", f"must be one of {', '.join(ROLES)}, not {role!r}")
    return identity_pb2.Role.Value(f"ROLE_{role.upper()}")
