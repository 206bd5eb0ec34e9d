"""The real servers that tests talk to, each in a temporary folder and on a free port."""

import itertools
import json
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from aios.blobs import Credentials, seaweed
from aios.config import Settings
from aios.stack import nats

START_SECONDS = 30.0


@dataclass
class NatsServer:
    """A NATS server that a test can stop, wipe and start again on the same port."""

    directory: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def settings(self, settings: Settings) -> Settings:
        """The same settings, with this server as the bus."""
        return replace(settings, nats_url=self.url, nats_credentials_file=self.directory / "nats.json")

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        credentials, config = self.directory / "nats.json", self.directory / "nats.conf"
        credentials.write_text(json.dumps({"user": "aios", "password": "known to this test only"}))
        config.write_text(
            nats.server_config(
                config_file=config,
                port=self.port,
                store_dir=self.directory / "store",
                credentials_file=credentials,
            )
        )
        command = [binary("nats-server"), "-c", str(config), "-l", str(self.directory / "nats.log")]
        self.process = subprocess.Popen(command)
        wait_for_port(self.port, self.process)

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def wipe(self) -> None:
        """Lose everything it stored. Only while it is down."""
        assert self.process is None
        shutil.rmtree(self.directory / "store", ignore_errors=True)


@contextmanager
def nats_server(directory: Path) -> Iterator[NatsServer]:
    """A running NATS server with JetStream, configured as `aios up` does it."""
    server = NatsServer(directory, free_port())
    server.start()
    try:
        yield server
    finally:
        server.kill()


def free_port() -> int:
    """A loopback port that nothing listens on, and that no other test is given before this process has been through
    its whole range: the server that asked for it may listen seconds later."""
    while True:
        port = next(_ports)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _walk(worker: str) -> Iterator[int]:
    """The ports of one process, round and round, from anywhere: those above the ones that agents give to jobs, below
    those that connections to elsewhere take; xdist's workers have different ones."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    mine = range(30_000 + int(worker), 32_768, workers)
    start = random.randrange(len(mine))
    return itertools.cycle([*mine[start:], *mine[:start]])


_ports = _walk(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


def binary(name: str) -> str:
    """A server's program, from the environment that runs the tests."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else name


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    """Return once the port answers; fail when the process ends first."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, f"{process.args!r} ended with {process.returncode}"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=0.2).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise AssertionError(f"nothing listens on port {port} after {START_SECONDS} s")


@dataclass
class S3Server:
    """An object store that a test can kill and start again on the same ports."""

    directory: Path
    ports: Mapping[str, int]
    credentials: Credentials
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports['s3']}"

    def settings(self, settings: Settings, bucket: str = "aios") -> Settings:
        """The same settings, with this server as the object store; a bucket of its own keeps a test apart."""
        return replace(
            settings,
            s3_endpoint=self.endpoint,
            s3_bucket=bucket,
            s3_credentials_file=self.directory / "credentials.json",
        )

    def start(self) -> None:
        """Start it; `Blobs.open` waits until it answers."""
        self.directory.mkdir(parents=True, exist_ok=True)
        keys = {"access_key": self.credentials.access_key, "secret_key": self.credentials.secret_key}
        (self.directory / "credentials.json").write_text(json.dumps(keys))
        seaweed.prepare(self.directory, self.credentials)
        # A bucket for each test: many, and small.
        command = seaweed.weed_command(Path(binary("weed")), self.directory, self.ports, volume_mib=64)
        environment = {**os.environ, **seaweed.weed_environment(self.directory, self.credentials)}
        with (self.directory / "s3.log").open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, stderr=log, stdout=log)

    def kill(self) -> None:
        """End it as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextmanager
def s3_server(directory: Path) -> Iterator[S3Server]:
    """A running S3 server, configured as `aios up` does it."""
    ports = {listener: free_port() for listener in seaweed.PORTS}
    server = S3Server(directory, ports, Credentials("test", secrets.token_urlsafe(16)))
    server.start()
    try:
        yield server
    finally:
        server.kill()
