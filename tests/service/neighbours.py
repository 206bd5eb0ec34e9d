"""A service under test among neighbours that a test controls: real gRPC on both sides, tokens as in production."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc

from aios.config import Settings
from aios.errors import Unavailable
from aios.runtime import tokens
from aios.runtime.app import Build, run
from aios.runtime.channel import connect
from aios.runtime.server import Server, Service
from aios.runtime.tokens import Verifier
from tests.servers import free_port

KEY = tokens.new_key()


def settings_in(home: Path, database_url: str = "") -> Settings:
    """Settings of a stack in a temporary home: keys there, free ports, no spans sent. SQLite where no URL is given."""
    ports = {
        f"{name}_address": f"127.0.0.1:{free_port()}"
        for name in ("scheduler", "data", "trainer", "inference", "gateway", "gateway_http", "envoy")
    }
    settings = Settings.load({"AIOS_HOME": str(home), "AIOS_DATABASE_URL": database_url})
    settings = replace(settings, telemetry=False, drain_seconds=0.2, **ports)  # type: ignore[arg-type]
    settings.secret("").mkdir(parents=True, exist_ok=True)
    settings.secret("jwks.json").write_text(json.dumps(tokens.jwks(KEY.public_key())))
    settings.secret("service.token").write_text(token("service"))
    return replace(settings, token_file=settings.secret("service.token"))


def token(role: str, project: str = "demo", subject: str = "alice", **claims: Any) -> str:
    """A token that every server of the test accepts."""
    body = {"sub": subject, "jti": f"{subject}-{role}", "project": project, "role": role, **claims}
    # Longer than the longest run of the fault harness on a busy machine.
    return tokens.mint(KEY, body, ttl_seconds=3600)


def channel(address: str, bearer: str) -> grpc.aio.Channel:
    """A client's channel with that token."""
    return connect(address, lambda: bearer)


@asynccontextmanager
async def neighbour(
    settings: Settings, name: str, services: Sequence[Service], foreign: Mapping[str, str] | None = None
) -> AsyncIterator[None]:
    """Serve `services` in the place of service `name`."""
    assert settings.jwks_file is not None
    server = Server(settings.address_of(name), services, Verifier(settings.jwks_file), foreign=foreign)
    await server.start()
    try:
        yield
    finally:
        await server.stop(0)


@asynccontextmanager
async def serving(name: str, settings: Settings, build: Build) -> AsyncIterator[None]:
    """Run a service as its `main` does, in this process, until the block ends."""
    stop = asyncio.Event()
    task = asyncio.create_task(run(name, settings, build, stop))
    async with grpc.aio.insecure_channel(settings.address_of(name)) as probe:
        ready = asyncio.create_task(probe.channel_ready())
        await asyncio.wait({task, ready}, timeout=20, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            ready.cancel()
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            raise Unavailable(f"{name} did not start")
    try:
        yield
    finally:
        stop.set()
        await task


async def until(condition: Any, seconds: float = 10.0) -> Any:
    """The first true result of an awaitable condition, asked again and again."""
    async with asyncio.timeout(seconds):
        while True:
            result = await condition()
            if result:
                return result
            await asyncio.sleep(0.05)
