"""The writer of Envoy's configuration follows the inference service and outlives it. Envoy itself is down here."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from google.protobuf.empty_pb2 import Empty

from aios.config import Settings
from aios.inference.v1 import deployment_pb2, inference_service_pb2_grpc
from aios.inference.v1 import inference_service_pb2 as pb
from aios.names import TokenName
from aios.records import Database
from aios.runtime import tokens
from aios.runtime.clock import SystemClock
from aios.runtime.server import Server, Service
from gateway.edge import Edge, deployments
from gateway.envoy.files import ConfigFiles
from gateway.envoy.model import Replica
from gateway.identity import keys, store
from gateway.identity.identity import Identity
from tests.servers import free_port

MIGRATIONS = Path(store.__file__).parent / "migrations"


def table(revision: int, *names: str, port: int = 9000) -> pb.WatchRoutesResponse:
    def route(name: str) -> pb.DeploymentRoute:
        deployment = f"projects/demo/deployments/{name}"
        ready = deployment_pb2.Replica(
            state=deployment_pb2.Replica.STATE_READY, host="127.0.0.1", http_port=port, grpc_port=port + 1
        )
        starting = deployment_pb2.Replica(state=deployment_pb2.Replica.STATE_STARTING)
        one = pb.RevisionRoute(revision=f"{deployment}/revisions/1", weight=100, replicas=[ready, starting])
        return pb.DeploymentRoute(deployment=deployment, revisions=[one])

    return pb.WatchRoutesResponse(revision=revision, deployments=[route(name) for name in names])


class Inference(inference_service_pb2_grpc.InferenceServiceServicer):
    """Sends the tables that a test puts, and remembers what was confirmed."""

    def __init__(self, *tables: pb.WatchRoutesResponse) -> None:
        self.tables: asyncio.Queue[pb.WatchRoutesResponse] = asyncio.Queue()
        for one in tables:
            self.tables.put_nowait(one)
        self.confirmed: list[int] = []

    async def WatchRoutes(self, request: Any, context: Any) -> AsyncIterator[pb.WatchRoutesResponse]:
        while True:
            yield await self.tables.get()

    async def ConfirmRoutes(self, request: Any, context: Any) -> Any:
        self.confirmed.append(request.revision)
        return Empty()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - what happens in other processes sets no event here
            await asyncio.sleep(0.02)


class Stack:
    """An Edge over real records and a real inference door."""

    def __init__(self, home: Path) -> None:
        loaded = Settings.load({"AIOS_HOME": str(home), "AIOS_INFERENCE_ADDRESS": f"127.0.0.1:{free_port()}"})
        assert loaded.identity_key_file is not None
        assert loaded.jwks_file is not None
        self.settings = replace(loaded, token_file=loaded.secret("gateway.token"))
        self.key = keys.load(loaded.identity_key_file, loaded.jwks_file)
        self.jwks = loaded.jwks_file
        claims = {"sub": "gateway", "jti": "g", "project": "default", "role": "service"}
        tokens.write_secret(loaded.secret("gateway.token"), tokens.mint(self.key, claims, ttl_seconds=60))
        self.files = ConfigFiles(home / "envoy")
        self.identity: Identity

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Edge]:
        async with AsyncExitStack() as stack:
            db = await Database.open(self.settings, "identity", store.metadata, MIGRATIONS)
            stack.push_async_callback(db.close)
            self.identity = Identity(db, self.key, SystemClock())
            await self.identity.prepare()
            edge = Edge(self.settings, self.identity)
            loops = [
                asyncio.create_task(_again(loop))
                for loop in (edge.publish, edge.follow_routes, edge.follow_revocations)
            ]
            yield edge
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)

    @asynccontextmanager
    async def inference(self, servicer: Inference) -> AsyncIterator[None]:
        add = inference_service_pb2_grpc.add_InferenceServiceServicer_to_server
        server = Server(self.settings.inference_address, [Service(add, servicer)], tokens.Verifier(self.jwks))
        await server.start()
        try:
            yield
        finally:
            await server.stop(0)

    def names(self) -> list[str]:
        """Deployments in the configuration on disk."""
        snapshot = self.files.load()
        return [deployment.name for deployment in snapshot.deployments] if snapshot else []

    def revoked(self) -> frozenset[str]:
        snapshot = self.files.load()
        return snapshot.revoked if snapshot else frozenset()


async def _again(loop: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await loop()
        except Exception:  # noqa: BLE001 - as the process does it
            await asyncio.sleep(0.05)


async def test_a_table_reaches_the_files_and_is_confirmed(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    inference = Inference(table(7, "digits"))
    async with stack.inference(inference), stack.running():
        await until(lambda: inference.confirmed == [7])
        assert stack.names() == ["digits"]
        inference.tables.put_nowait(table(8, "digits", "faces"))
        await until(lambda: inference.confirmed == [7, 8])
        assert stack.names() == ["digits", "faces"]
        routes = json.loads((tmp_path / "envoy" / "routes.json").read_text())
        assert "/v2/models/faces" in json.dumps(routes)


async def test_the_table_outlives_the_inference_service_and_the_gateway(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    inference = Inference(table(7, "digits"))
    async with stack.running():
        async with stack.inference(inference):
            await until(lambda: inference.confirmed == [7])
        await asyncio.sleep(0.3)
        assert stack.names() == ["digits"]
    async with stack.running():
        # The inference service is still away, and something else changes.
        issued, _ = await stack.identity.create_token("default", "operator", "", None, "")
        await stack.identity.revoke_token(TokenName("default", issued.id))
        await until(lambda: stack.revoked() == {issued.id})
        assert stack.names() == ["digits"]
        fresh = Inference(table(1))
        async with stack.inference(fresh):
            await until(lambda: fresh.confirmed == [1])
        assert stack.names() == []


async def test_an_inference_service_that_restarts_is_told_again_what_is_in_force(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    async with stack.running():
        for _ in range(2):
            inference = Inference(table(7, "digits"))
            async with stack.inference(inference):
                await until(lambda inference=inference: inference.confirmed == [7])  # type: ignore[misc]


def test_only_replicas_that_answered_are_routed_to() -> None:
    (route,) = deployments(table(1, "digits"))
    (backend,) = route.backends
    assert (backend.revision, backend.weight, backend.replicas) == (
        "1",
        100,
        (Replica("127.0.0.1", 9000, 9001),),
    )


async def test_what_waits_for_its_replicas_is_not_confirmed(tmp_path: Path) -> None:
    edge = Edge(Stack(tmp_path).settings, None)  # type: ignore[arg-type]  # it is not asked
    (old,), (new,) = deployments(table(1, "digits")), deployments(table(2, "digits", port=9100))
    key = ("demo", "digits")
    assert edge._note_in_force([old], set())
    assert not edge._note_in_force([new], {key})
    assert edge._note_in_force([new], set())
    # Down, and nothing else waits to take over: that is how it is wanted.
    assert edge._note_in_force([new], {key})
