"""The data service as a process of its own: killed half-way, on a bounded memory, heard on the bus."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import nats
import pytest

from aios.config import Settings
from aios.data.v1 import data_service_pb2 as pb
from aios.data.v1 import data_service_pb2_grpc
from aios.errors import FailedPrecondition, Unavailable
from tests.servers import NatsServer, S3Server, free_port, nats_server, s3_server, wait_for_port
from tests.service import neighbours
from tests.service.data_service import PROJECT, Caller, file

MIB = 1 << 20


@dataclass
class Process:
    """`python -m services.data`, which a test may kill."""

    settings: Settings
    environment: Mapping[str, str]
    running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.running = subprocess.Popen([sys.executable, "-m", "services.data"], env=self.environment)
        wait_for_port(int(self.settings.data_address.rpartition(":")[2]), self.running)

    def kill(self) -> None:
        assert self.running is not None
        self.running.kill()
        self.running.wait()

    def peak_bytes(self) -> int:
        """The most memory it has had."""
        assert self.running is not None
        for line in Path(f"/proc/{self.running.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmHWM")

    @asynccontextmanager
    async def caller(self) -> AsyncIterator[Caller]:
        channel = neighbours.channel(self.settings.data_address, neighbours.token("editor"))
        async with channel, httpx.AsyncClient(timeout=60) as http:
            yield Caller(data_service_pb2_grpc.DataServiceStub(channel), http, PROJECT)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def process(s3: S3Server, bus: NatsServer, tmp_path: Path) -> Iterator[Process]:
    settings = s3.settings(bus.settings(neighbours.settings_in(tmp_path)), bucket=f"t{os.urandom(6).hex()}")
    settings.secret("data.token").write_text(neighbours.token("service"))
    environment = {
        **os.environ,
        "AIOS_HOME": str(settings.home),
        "AIOS_DATA_ADDRESS": settings.data_address,
        "AIOS_GATEWAY_ADDRESS": f"127.0.0.1:{free_port()}",
        "AIOS_NATS_URL": settings.nats_url,
        "AIOS_NATS_CREDENTIALS_FILE": str(settings.nats_credentials_file),
        "AIOS_S3_ENDPOINT": settings.s3_endpoint,
        "AIOS_S3_BUCKET": settings.s3_bucket,
        "AIOS_S3_CREDENTIALS_FILE": str(settings.s3_credentials_file),
        "AIOS_TELEMETRY": "false",
    }
    started = Process(settings, environment)
    started.start()
    try:
        yield started
    finally:
        started.kill()


async def test_killed_at_any_point_of_an_upload_nothing_is_visible_and_it_can_go_on(process: Process) -> None:
    data = os.urandom(16 * MIB)
    for delay in (0.0, 0.05, 0.2):
        content = data + str(delay).encode()
        async with process.caller() as alice:
            upload = await alice.begin(content)
            assert await alice.put(upload, content) == 200
            completing = asyncio.create_task(alice.complete(upload))
            await asyncio.sleep(delay)
            process.kill()
            with contextlib.suppress(Unavailable):
                await completing
        process.start()
        async with process.caller() as alice:
            again = await patiently(alice.begin, content)
            parent = await alice.dataset(f"d{int(delay * 100)}")
            if not again.exists:
                with pytest.raises(FailedPrecondition):
                    await alice.commit(parent, [file("a", content)])
                await alice.complete(again)
            version = await alice.commit(parent, [file("a", content)])
            assert await alice.read(version.name) == {"a": content}


async def test_a_large_upload_is_checked_in_little_memory(process: Process) -> None:
    data = os.urandom(64 * MIB)
    async with process.caller() as alice:
        await alice.store("small", b"warm")
        before = process.peak_bytes()
        await alice.store("large", data)

    assert process.peak_bytes() - before < 16 * MIB


async def test_what_happens_is_heard_on_the_bus(process: Process) -> None:
    settings = process.settings
    client = await nats.connect(settings.nats_url, user="aios", password="known to this test only")
    heard = await client.subscribe("aios.data.>")
    async with process.caller() as alice:
        stored = await alice.store("a", b"1")
        version = await alice.commit(await alice.dataset("d"), [stored])

    subjects = [(await heard.next_msg(timeout=10)).subject for _ in range(3)]

    await client.close()
    assert subjects == [
        f"aios.data.blob.demo.{stored.sha256}.committed",
        "aios.data.dataset.demo.d.created",
        f"aios.data.dataset_version.demo.d/{version.name.rpartition('/')[2]}.created",
    ]


async def test_it_stops_when_it_is_asked_to(process: Process) -> None:
    assert process.running is not None
    process.running.terminate()
    assert await asyncio.to_thread(process.running.wait, 15) == 0


async def patiently(call: Callable[[bytes], Awaitable[pb.Upload]], content: bytes) -> pb.Upload:
    """The answer of a service that has just come back: a channel dials again at its own pace."""
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(Unavailable):
                return await call(content)
            await asyncio.sleep(0.1)
