"""IdentityService: convert, call, convert."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from aios.errors import InvalidArgument
from aios.identity.v1 import identity_pb2, identity_service_pb2, identity_service_pb2_grpc
from aios.names import JobName, MemberName, ProjectName, TokenName
from aios.records import Database, Page
from aios.runtime.context import principal
from gateway.identity import mapping, store
from gateway.identity.identity import Identity

Context = grpc.aio.ServicerContext[Any, Any]
pb = identity_service_pb2


class IdentityServicer(identity_service_pb2_grpc.IdentityServiceServicer):
    """Who may do what, as records."""

    def __init__(self, identity: Identity, db: Database) -> None:
        self._identity = identity
        self._db = db

    async def GetCaller(self, request: pb.GetCallerRequest, context: Context) -> pb.Caller:
        caller = principal()
        return pb.Caller(
            subject=caller.subject,
            project=str(ProjectName(caller.project)),
            role=mapping.role_to_proto(caller.role),
            operator=caller.operator,
            expire_time=mapping.timestamp(datetime.fromtimestamp(caller.expires, UTC)),
        )

    async def CreateProject(self, request: pb.CreateProjectRequest, context: Context) -> identity_pb2.Project:
        return await self._db.once(
            request,
            lambda tx: mapping.project_to_proto(
                self._identity.create_project(tx, request.project_id, request.project.display_name)
            ),
            identity_pb2.Project,
        )

    async def GetProject(self, request: pb.GetProjectRequest, context: Context) -> identity_pb2.Project:
        name = ProjectName.parse(request.name)
        return mapping.project_to_proto(await self._db.read(lambda tx: store.get_project(tx, name.project)))

    async def ListProjects(
        self, request: pb.ListProjectsRequest, context: Context
    ) -> pb.ListProjectsResponse:
        only = None if principal().everywhere else principal().project
        page = Page.of(request)
        found, token = await self._db.read(lambda tx: store.list_projects(tx, page, only))
        return pb.ListProjectsResponse(projects=map(mapping.project_to_proto, found), next_page_token=token)

    async def SetMember(self, request: pb.SetMemberRequest, context: Context) -> identity_pb2.Member:
        name = MemberName.parse(request.member.name, "member.name")
        return mapping.member_to_proto(
            await self._identity.set_member(name, mapping.role(request.member.role))
        )

    async def ListMembers(self, request: pb.ListMembersRequest, context: Context) -> pb.ListMembersResponse:
        project, page = ProjectName.parse(request.parent, "parent").project, Page.of(request)
        found, token = await self._db.read(lambda tx: store.list_members(tx, page, project))
        return pb.ListMembersResponse(members=map(mapping.member_to_proto, found), next_page_token=token)

    async def DeleteMember(self, request: pb.DeleteMemberRequest, context: Context) -> Empty:
        await self._identity.delete_member(MemberName.parse(request.name))
        return Empty()

    async def CreateToken(self, request: pb.CreateTokenRequest, context: Context) -> pb.CreateTokenResponse:
        project = ProjectName.parse(request.parent, "parent").project
        ttl = mapping.duration(request.ttl) if request.HasField("ttl") else None
        token, secret = await self._identity.create_token(
            project, _member(request, project), _role(request), ttl, request.display_name
        )
        return pb.CreateTokenResponse(token=mapping.token_to_proto(token), secret=secret)

    async def ListTokens(self, request: pb.ListTokensRequest, context: Context) -> pb.ListTokensResponse:
        project, page = ProjectName.parse(request.parent, "parent").project, Page.of(request)
        found, token = await self._db.read(lambda tx: store.list_tokens(tx, page, project))
        return pb.ListTokensResponse(tokens=map(mapping.token_to_proto, found), next_page_token=token)

    async def RevokeToken(self, request: pb.RevokeTokenRequest, context: Context) -> identity_pb2.Token:
        return mapping.token_to_proto(await self._identity.revoke_token(TokenName.parse(request.name)))

    async def IssueWorkerToken(
        self, request: pb.IssueWorkerTokenRequest, context: Context
    ) -> pb.IssueWorkerTokenResponse:
        secret, expires = self._identity.worker_token(JobName.parse(request.job, "job"), request.epoch)
        return pb.IssueWorkerTokenResponse(secret=secret, expire_time=mapping.timestamp(expires))

    async def WatchRevocations(
        self, request: pb.WatchRevocationsRequest, context: Context
    ) -> AsyncIterator[pb.WatchRevocationsResponse]:
        async for revoked in self._identity.revocations():
            yield pb.WatchRevocationsResponse(revocations=map(mapping.revocation_to_proto, revoked))


def _member(request: pb.CreateTokenRequest, project: str) -> str:
    """The member that a new token speaks for: the caller where none is named."""
    if not request.member:
        return principal().subject
    name = MemberName.parse(request.member, "member")
    if name.project != project:
        raise InvalidArgument.of("member", f"must be a member of projects/{project}")
    return name.member


def _role(request: pb.CreateTokenRequest) -> str:
    name = mapping.role(request.role)
    if request.role and not name:
        raise InvalidArgument.of("role", f"{request.role} is no role")
    return name
