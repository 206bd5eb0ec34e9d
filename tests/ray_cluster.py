"""A Ray cluster of one machine with two workers, where Ray is installed."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.data.job.on_ray import RayNotReady
from tests.servers import free_port

TOKEN = "0123456789abcdef" * 4
START_SECONDS = 120


class RayDidNotStart(Exception):
    """Ray gave up: each of its processes has 15 s to start, which a busy machine does not keep."""


@contextmanager
def ray_cluster() -> Iterator[str]:
    """Its address, of the form that AIOS_RAY_ADDRESS has."""
    client = free_port()
    head = _head(client)
    try:
        _wait(client, head)
        try:
            yield f"ray://127.0.0.1:{client}"
        except RayNotReady as error:
            if head.poll() is not None:
                raise RayDidNotStart(f"Ray ended with {head.returncode}") from error
            raise
    finally:
        head.terminate()
        head.wait(60)


def _head(client: int) -> subprocess.Popen[bytes]:
    ports = f"--port={free_port()} --ray-client-server-port={client}"
    quiet = f"--include-dashboard=false --disable-usage-stats --object-store-memory={200 << 20}"
    return subprocess.Popen(
        [
            Path(sys.executable).with_name("ray"),
            *f"start --head --block --num-cpus=2 {ports} {quiet}".split(),
        ],
        env={**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _wait(port: int, head: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if head.poll() is not None:
            raise RayDidNotStart(f"Ray ended with {head.returncode}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RayDidNotStart(f"Ray does not answer after {START_SECONDS} s")
