"""Identity's protos and values, both ways."""

from datetime import datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from aios.identity.v1 import identity_pb2, identity_service_pb2
from aios.names import MemberName, ProjectName, TokenName
from gateway.identity.projects import Member, Project
from gateway.identity.tokens import Token

_PREFIX = "ROLE_"


def role(value: "identity_pb2.Role.ValueType") -> str:
    """`ROLE_EDITOR` as `editor`; empty when not set or unknown."""
    if value not in identity_pb2.Role.values() or value == identity_pb2.ROLE_UNSPECIFIED:
        return ""
    return identity_pb2.Role.Name(value).removeprefix(_PREFIX).lower()


def role_to_proto(name: str) -> "identity_pb2.Role.ValueType":
    return identity_pb2.Role.Value(_PREFIX + name.upper())


def duration(value: Duration) -> timedelta:
    """Kept within what timedelta can hold; the rule for the field says what is allowed."""
    return timedelta(seconds=max(-1, min(value.seconds, 10**9)), microseconds=value.nanos / 1000)


def timestamp(value: datetime) -> Timestamp:
    result = Timestamp()
    result.FromDatetime(value)
    return result


def project_to_proto(project: Project) -> identity_pb2.Project:
    return identity_pb2.Project(
        name=str(ProjectName(project.id)),
        display_name=project.display_name,
        create_time=timestamp(project.create_time),
    )


def member_to_proto(member: Member) -> identity_pb2.Member:
    return identity_pb2.Member(
        name=str(MemberName(member.project, member.id)),
        role=role_to_proto(member.role),
        create_time=timestamp(member.create_time),
    )


def token_to_proto(token: Token) -> identity_pb2.Token:
    return identity_pb2.Token(
        name=str(TokenName(token.project, token.id)),
        member=str(MemberName(token.project, token.member)),
        role=role_to_proto(token.role),
        display_name=token.display_name,
        create_time=timestamp(token.create_time),
        expire_time=timestamp(token.expire_time),
        revoke_time=timestamp(token.revoke_time) if token.revoke_time else None,
    )


def revocation_to_proto(token: Token) -> identity_service_pb2.Revocation:
    return identity_service_pb2.Revocation(token_id=token.id, expire_time=timestamp(token.expire_time))
