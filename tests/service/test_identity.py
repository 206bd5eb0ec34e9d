"""The identity domain over real gRPC and SQLite: projects, members, tokens, revocation, and forged tokens."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives import serialization
from google.protobuf.duration_pb2 import Duration

from aios.config import Settings
from aios.errors import (
    AiosError,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unauthenticated,
)
from aios.identity.v1 import identity_pb2, identity_service_pb2_grpc
from aios.identity.v1 import identity_service_pb2 as pb
from aios.records import Database
from aios.runtime import tokens
from aios.runtime.channel import connect
from aios.runtime.clock import SystemClock
from aios.runtime.server import Server, Service
from gateway.identity import keys, store
from gateway.identity.identity import Identity
from gateway.identity.servicer import IdentityServicer

MIGRATIONS = Path(store.__file__).parent / "migrations"
VIEWER, EDITOR, ADMIN = identity_pb2.ROLE_VIEWER, identity_pb2.ROLE_EDITOR, identity_pb2.ROLE_ADMIN


class Running:
    """An identity server, and stubs for whoever calls it."""

    def __init__(self, server: Server, key: Any, verifier: tokens.Verifier, stack: AsyncExitStack) -> None:
        self.server = server
        self.key = key
        self.verifier = verifier
        self._stack = stack

    def token(self, role: str = "admin", project: str = "default", **more: Any) -> str:
        claims = {"sub": "operator", "jti": "offline", "project": project, "role": role, **more}
        return tokens.mint(self.key, claims, ttl_seconds=60)

    def stub(self, token: str | None) -> identity_service_pb2_grpc.IdentityServiceStub:
        channel = connect(f"127.0.0.1:{self.server.port}", None if token is None else lambda: token)
        self._stack.push_async_callback(channel.close)
        return identity_service_pb2_grpc.IdentityServiceStub(channel)

    def operator(self) -> identity_service_pb2_grpc.IdentityServiceStub:
        return self.stub(self.token(platform=True))


async def start(home: Path, stack: AsyncExitStack, database_url: str = "") -> Running:
    settings = Settings.load({"AIOS_HOME": str(home), "AIOS_DATABASE_URL": database_url})
    assert settings.identity_key_file is not None
    assert settings.jwks_file is not None
    key = keys.load(settings.identity_key_file, settings.jwks_file)
    db = await Database.open(settings, "identity", store.metadata, MIGRATIONS)
    stack.push_async_callback(db.close)
    identity = Identity(db, key, SystemClock())
    await identity.prepare()
    verifier = tokens.Verifier(settings.jwks_file)
    add = identity_service_pb2_grpc.add_IdentityServiceServicer_to_server
    server = Server("127.0.0.1:0", [Service(add, IdentityServicer(identity, db))], verifier)
    await server.start()
    stack.push_async_callback(server.stop, 0)
    return Running(server, key, verifier, stack)


@pytest_asyncio.fixture
async def identity(tmp_path: Path) -> AsyncIterator[Running]:
    async with AsyncExitStack() as stack:
        yield await start(tmp_path, stack)


async def member(running: Running, project: str, name: str, role: "identity_pb2.Role.ValueType") -> None:
    asked = identity_pb2.Member(name=f"projects/{project}/members/{name}", role=role)
    await running.operator().SetMember(pb.SetMemberRequest(member=asked))


async def issue(running: Running, project: str, name: str, **more: Any) -> pb.CreateTokenResponse:
    request = pb.CreateTokenRequest(
        parent=f"projects/{project}", member=f"projects/{project}/members/{name}", **more
    )
    return await running.operator().CreateToken(request)


async def test_the_first_start_makes_one_project_with_one_member(tmp_path: Path) -> None:
    for _ in range(2):
        async with AsyncExitStack() as stack:
            operator = (await start(tmp_path, stack)).operator()
            projects = (await operator.ListProjects(pb.ListProjectsRequest())).projects
            members = (await operator.ListMembers(pb.ListMembersRequest(parent="projects/default"))).members
            assert [project.name for project in projects] == ["projects/default"]
            assert [(m.name, m.role) for m in members] == [("projects/default/members/operator", ADMIN)]


async def test_a_project_is_made_once_per_request(identity: Running) -> None:
    request = pb.CreateProjectRequest(
        project_id="vision",
        project=identity_pb2.Project(display_name="Vision"),
        request_id="7b1f2d4e-8c35-4f0a-9d8e-2a6c1b3e5f70",
    )
    first = await identity.operator().CreateProject(request)
    assert await identity.operator().CreateProject(request) == first
    assert await identity.operator().GetProject(pb.GetProjectRequest(name="projects/vision")) == first
    request.request_id = ""
    with pytest.raises(AlreadyExists) as caught:
        await identity.operator().CreateProject(request)
    assert caught.value.reason == "PROJECT_EXISTS"


@pytest.mark.parametrize("project_id", ["", "A", "a/b", "-a", "a" * 41, "..", "a b"])
async def test_a_bad_project_id_is_refused(identity: Running, project_id: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await identity.operator().CreateProject(pb.CreateProjectRequest(project_id=project_id))
    assert "project_id" in caught.value.fields


async def test_only_operators_make_projects(identity: Running) -> None:
    with pytest.raises(PermissionDenied):
        await identity.stub(identity.token("admin")).CreateProject(pb.CreateProjectRequest(project_id="mine"))


async def test_projects_are_seen_by_their_members_alone(identity: Running) -> None:
    await identity.operator().CreateProject(pb.CreateProjectRequest(project_id="other"))
    mine = identity.stub(identity.token("admin"))
    assert [p.name for p in (await mine.ListProjects(pb.ListProjectsRequest())).projects] == [
        "projects/default"
    ]
    for call in (
        mine.GetProject(pb.GetProjectRequest(name="projects/other")),
        mine.ListMembers(pb.ListMembersRequest(parent="projects/other")),
        mine.CreateToken(pb.CreateTokenRequest(parent="projects/other")),
        mine.RevokeToken(pb.RevokeTokenRequest(name="projects/other/tokens/tok-a")),
        mine.DeleteMember(pb.DeleteMemberRequest(name="projects/other/members/bob")),
    ):
        with pytest.raises(NotFound):
            await call


async def test_a_token_speaks_for_its_member(identity: Running) -> None:
    await member(identity, "default", "alice", EDITOR)
    issued = await issue(identity, "default", "alice", display_name="laptop")
    caller = await identity.stub(issued.secret).GetCaller(pb.GetCallerRequest())
    assert (caller.subject, caller.project, caller.role, caller.operator) == (
        "alice",
        "projects/default",
        EDITOR,
        False,
    )
    assert caller.expire_time.seconds == issued.token.expire_time.seconds
    with pytest.raises(PermissionDenied):
        await identity.stub(issued.secret).ListTokens(pb.ListTokensRequest(parent="projects/default"))


async def test_a_token_is_for_a_member_and_within_its_role(identity: Running) -> None:
    await member(identity, "default", "alice", EDITOR)
    with pytest.raises(FailedPrecondition) as stranger:
        await issue(identity, "default", "bob")
    assert stranger.value.reason == "NOT_A_MEMBER"
    with pytest.raises(InvalidArgument) as too_high:
        await issue(identity, "default", "alice", role=ADMIN)
    assert too_high.value.reason == "ROLE_TOO_HIGH"
    with pytest.raises(InvalidArgument) as too_long:
        await issue(identity, "default", "alice", ttl=Duration(seconds=367 * 86400))
    assert "ttl" in too_long.value.fields
    request = pb.CreateTokenRequest(parent="projects/default", member="projects/other/members/alice")
    with pytest.raises(InvalidArgument) as elsewhere:
        await identity.operator().CreateToken(request)
    assert "member" in elsewhere.value.fields


async def test_a_token_without_a_named_member_is_the_callers_own(identity: Running) -> None:
    issued = await identity.operator().CreateToken(pb.CreateTokenRequest(parent="projects/default"))
    assert issued.token.member == "projects/default/members/operator"


async def test_platform_roles_cannot_be_given(identity: Running) -> None:
    for role in (identity_pb2.ROLE_SERVICE, identity_pb2.ROLE_NODE, identity_pb2.ROLE_UNSPECIFIED):
        with pytest.raises(InvalidArgument) as caught:
            await member(identity, "default", "eve", role)
        assert "member.role" in caught.value.fields


async def test_tokens_are_listed_newest_first_without_secrets(identity: Running) -> None:
    await member(identity, "default", "alice", VIEWER)
    made = [(await issue(identity, "default", "alice")).token.name for _ in range(5)]
    seen: list[str] = []
    request = pb.ListTokensRequest(parent="projects/default", page_size=2)
    while True:
        page = await identity.operator().ListTokens(request)
        seen += [token.name for token in page.tokens]
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    assert seen == made[::-1]


async def test_a_revocation_is_told_to_every_door(identity: Running) -> None:
    await member(identity, "default", "alice", VIEWER)
    issued = await issue(identity, "default", "alice")
    doors = aiter(identity.stub(identity.token("service")).WatchRevocations(pb.WatchRevocationsRequest()))
    assert len((await anext(doors)).revocations) == 0
    revoked = await identity.operator().RevokeToken(pb.RevokeTokenRequest(name=issued.token.name))
    async with asyncio.timeout(2):
        while not (told := (await anext(doors)).revocations):
            pass
    assert told[0].token_id == issued.token.name.rpartition("/")[2]
    assert told[0].expire_time == issued.token.expire_time
    again = await identity.operator().RevokeToken(pb.RevokeTokenRequest(name=issued.token.name))
    assert again == revoked

    identity.verifier.revoked = frozenset(one.token_id for one in told)
    with pytest.raises(Unauthenticated) as caught:
        await identity.stub(issued.secret).GetCaller(pb.GetCallerRequest())
    assert caught.value.reason == "TOKEN_REVOKED"


async def test_removing_a_member_revokes_its_tokens(identity: Running) -> None:
    await member(identity, "default", "alice", VIEWER)
    await issue(identity, "default", "alice")
    name = "projects/default/members/alice"
    await identity.operator().DeleteMember(pb.DeleteMemberRequest(name=name))
    (token,) = (await identity.operator().ListTokens(pb.ListTokensRequest(parent="projects/default"))).tokens
    assert token.HasField("revoke_time")
    with pytest.raises(NotFound):
        await identity.operator().DeleteMember(pb.DeleteMemberRequest(name=name))


async def test_revocations_are_for_services(identity: Running) -> None:
    with pytest.raises(PermissionDenied):
        await anext(
            aiter(identity.stub(identity.token("admin")).WatchRevocations(pb.WatchRevocationsRequest()))
        )


async def test_a_node_gets_worker_tokens_and_nobody_else(identity: Running) -> None:
    request = pb.IssueWorkerTokenRequest(job="projects/vision/jobs/j", epoch=2)
    issued = await identity.stub(identity.token("node")).IssueWorkerToken(request)
    worker = identity.verifier.verify(issued.secret)
    assert (worker.role, worker.project, worker.job, worker.epoch) == (
        "worker",
        "vision",
        "projects/vision/jobs/j",
        2,
    )
    assert issued.expire_time.seconds - time.time() == pytest.approx(3600, abs=10)
    caller = await identity.stub(issued.secret).GetCaller(pb.GetCallerRequest())
    assert caller.subject == "projects/vision/jobs/j"
    for token in (identity.token("admin", platform=True), identity.token("service"), issued.secret):
        with pytest.raises(PermissionDenied):
            await identity.stub(token).IssueWorkerToken(request)
    with pytest.raises(InvalidArgument):
        await identity.stub(identity.token("node")).IssueWorkerToken(
            pb.IssueWorkerTokenRequest(job="projects/vision/jobs/j")
        )


GOOD = {"iss": "aios", "aud": "aios", "sub": "eve", "jti": "x", "project": "default", "role": "admin"}


def _times(now: float) -> dict[str, int]:
    return {"iat": int(now), "exp": int(now) + 60}


def _none(key: Any) -> str:
    return jwt.encode(GOOD | _times(time.time()), None, algorithm="none")  # type: ignore[arg-type]


def _hs256_with_the_public_key(key: Any) -> str:
    public = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return jwt.encode(GOOD | _times(time.time()), public, algorithm="HS256", headers={"kid": _kid(key)})


def _another_key(key: Any) -> str:
    claims = GOOD | _times(time.time())
    return jwt.encode(claims, tokens.new_key(), algorithm="EdDSA", headers={"kid": _kid(key)})


def _unknown_key(key: Any) -> str:
    return tokens.mint(tokens.new_key(), GOOD, ttl_seconds=60)


def _expired(key: Any) -> str:
    return tokens.mint(key, GOOD, ttl_seconds=60, now=time.time() - 3600)


def _wrong_audience(key: Any) -> str:
    return tokens.mint(key, GOOD | {"aud": "elsewhere"}, ttl_seconds=60)


def _wrong_issuer(key: Any) -> str:
    return tokens.mint(key, GOOD | {"iss": "elsewhere"}, ttl_seconds=60)


def _no_expiry(key: Any) -> str:
    claims = GOOD | {"iat": int(time.time())}
    return jwt.encode(claims, key, algorithm="EdDSA", headers={"kid": _kid(key)})


def _unknown_critical_header(key: Any) -> str:
    headers = {"kid": _kid(key), "crit": ["b64"], "b64": False}
    return jwt.encode(GOOD | _times(time.time()), key, algorithm="EdDSA", headers=headers)


def _role_raised(key: Any) -> str:
    head, _, tail = tokens.mint(key, GOOD | {"role": "viewer"}, ttl_seconds=60).partition(".")
    body, _, signature = tail.partition(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    forged = base64.urlsafe_b64encode(json.dumps(claims | {"role": "admin"}).encode()).rstrip(b"=").decode()
    return f"{head}.{forged}.{signature}"


def _kid(key: Any) -> str:
    kid: str = tokens.jwks(key.public_key())["keys"][0]["kid"]
    return kid


@pytest.mark.parametrize(
    "forge",
    [
        _none,
        _hs256_with_the_public_key,
        _another_key,
        _unknown_key,
        _expired,
        _wrong_audience,
        _wrong_issuer,
        _no_expiry,
        _unknown_critical_header,
        _role_raised,
        lambda key: "",
        lambda key: "a.b.c",
        lambda key: "..",
    ],
)
async def test_a_forged_token_is_refused(identity: Running, forge: Callable[[Any], str]) -> None:
    with pytest.raises(Unauthenticated) as caught:
        await identity.stub(forge(identity.key)).GetCaller(pb.GetCallerRequest())
    assert caught.value.reason in ("TOKEN_INVALID", "TOKEN_EXPIRED", "TOKEN_MISSING")


async def test_a_role_that_does_not_exist_may_do_nothing(identity: Running) -> None:
    with pytest.raises(AiosError) as caught:
        await identity.stub(identity.token("root")).GetCaller(pb.GetCallerRequest())
    assert isinstance(caught.value, PermissionDenied)


async def test_the_key_is_made_once_and_its_public_half_published(tmp_path: Path) -> None:
    key_file, jwks_file = tmp_path / "secrets" / "key.pem", tmp_path / "secrets" / "jwks.json"
    first = keys.load(key_file, jwks_file)
    assert key_file.stat().st_mode & 0o777 == 0o600
    key_file.unlink()
    second = keys.load(key_file, jwks_file)
    # A new key leaves the tokens of the old one good.
    assert _kid(first) != _kid(second)
    assert [key["kid"] for key in json.loads(jwks_file.read_text())["keys"]] == [_kid(second), _kid(first)]
    assert keys.load(key_file, jwks_file).private_bytes_raw() == second.private_bytes_raw()
