"""Install the Triton server that the PyPI wheel carries: `python -m services.inference.replica.install`.

The wheel is unpacked, never installed: as a package it would pin numpy below 2 for the platform. Models
run in an environment of their own, because Triton 2.51's Python backend corrupts tensors silently
under numpy 2. Nothing here needs root.

    {dest}/builds/{key}/pytriton/tritonserver/   the server and its Python backend
    {dest}/builds/{key}/nvidia_pytriton.libs/    the libraries it was linked with
    {dest}/builds/{key}/model/                   the models' environment
    {dest}/builds/{key}/installed.json           written last
    {dest}/current -> builds/{key}               moved when the build is whole
"""

import argparse
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

from aios.config import Settings
from services.inference.replica.triton import LOCK, STAMP, TritonMissing, locate

WHEEL = "nvidia_pytriton-0.7.0-*.whl"
WANTED = ("pytriton/tritonserver/", "nvidia_pytriton.libs/")
UNPACKED_BYTES_MAX = 1 << 30
"""The 0.7.0 wheel unpacks to 143 MB; a bomb does not."""

RECIPE = 1
"""Raised when the steps below change, so that an older build is not taken for a current one."""

SHARE = Path(sys.prefix, "share", "aios")
"""Where `make install` left the wheels and, if the distribution packs it apart, libpython."""


def install(dest: Path, wheel_dir: Path = SHARE / "wheels") -> Path:
    """Make `dest/current` a whole installation and return it. A second call changes nothing.

    Args:
        wheel_dir: Holds the server's wheel, `model.lock`, and the wheels which that lock pins by hash.
    """
    wheel, lock = _wheel(wheel_dir), wheel_dir / "model.lock"
    made_of = {
        "recipe": RECIPE,
        "python": platform.python_version(),
        "libpython": str(_libpython()),
        "wheel": _sha256(wheel),
        "model": _sha256(lock),
    }
    key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]
    builds = dest / "builds"
    builds.mkdir(parents=True, exist_ok=True)
    build = builds / key
    with (dest / LOCK).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not (build / STAMP).is_file():
            with tempfile.TemporaryDirectory(prefix=".building-", dir=builds) as scratch:
                tree = Path(scratch, "tree")
                tree.mkdir()
                _build(tree, wheel, lock)
                (tree / STAMP).write_text(json.dumps(made_of, indent=2))
                tree.rename(build)
        _point(dest / "current", Path("builds", key))
    return build


def _build(tree: Path, wheel: Path, lock: Path) -> None:
    unpack(wheel, tree)
    server = tree / "pytriton" / "tritonserver"
    version = sysconfig.get_python_version()
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        raise TritonMissing(f"{wheel.name} has no Python backend for Python {version}")
    shutil.copy2(stub, server / "backends" / "python")
    shutil.rmtree(server / "python_backend_stubs")
    _model_environment(tree / "model", lock)


def unpack(wheel: Path, dest: Path) -> None:
    """Extract the server's part of the wheel: regular files only, run bits kept."""
    with zipfile.ZipFile(wheel) as archive:
        members = [each for each in archive.infolist() if each.filename.startswith(WANTED)]
        members = [each for each in members if not each.is_dir()]
        if sum(each.file_size for each in members) > UNPACKED_BYTES_MAX:
            raise TritonMissing(f"{wheel.name} unpacks to more than {UNPACKED_BYTES_MAX} bytes")
        for member in members:
            path = Path(member.filename)
            mode = member.external_attr >> 16
            if ".." in path.parts or not stat.S_ISREG(mode):
                raise TritonMissing(f"{wheel.name} holds {member.filename!r}, which is not a regular file")
            target = dest / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, target.open("xb") as out:
                shutil.copyfileobj(source, out, length=1 << 20)
            # Some builders leave the bits out of the archive: the two programs run all the same.
            runs = mode & stat.S_IXUSR or path.name in ("tritonserver", "triton_python_backend_stub")
            target.chmod(0o755 if runs else 0o644)


def _model_environment(dest: Path, lock: Path) -> None:
    pinned = ["--quiet", "--no-index", "--find-links", str(lock.parent), "--require-hashes", "-r", str(lock)]
    python = str(dest / "bin" / "python")
    if importlib.util.find_spec("uv"):  # seconds faster, and no pip stays in the environment
        _run([sys.executable, "-m", "venv", "--without-pip", str(dest)])
        _run([sys.executable, "-m", "uv", "pip", "install", "--python", python, *pinned])
    else:
        _run([sys.executable, "-m", "venv", str(dest)])
        _run([python, "-m", "pip", "install", *pinned])


def _wheel(directory: Path) -> Path:
    wheels = sorted(directory.glob(WHEEL))
    if not wheels:
        raise TritonMissing(f"no {WHEEL} in {directory}: run `make install`, or pass --wheel-dir")
    return wheels[0]


def _libpython() -> Path:
    """The directory of this interpreter's shared library, which the Python backend embeds.

    Debian and Ubuntu ship it as a package that `python3-venv` does not bring.
    """
    name = f"libpython{sysconfig.get_python_version()}.so.1.0"
    for directory in (SHARE / "lib", sysconfig.get_config_var("LIBDIR")):
        if directory and Path(directory, name).exists():
            return Path(directory)
    package = name.removesuffix(".so.1.0")
    raise TritonMissing(
        f"{name} is missing: `apt install {package}`, or use a Python built with --enable-shared"
    )


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _point(link: Path, target: Path) -> None:
    """Move the link in one step: no reader ever finds it missing."""
    fresh = link.with_name(".current")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(link)


def _run(command: list[str]) -> None:
    environment = {
        k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    }
    done = subprocess.run(command, env=environment, text=True, capture_output=True, check=False)
    if done.returncode:
        raise TritonMissing(f"`{' '.join(command)}` ended with {done.returncode}:\n{done.stderr.strip()}")


def main() -> None:
    """Install from the command line; prints where. Does nothing where `AIOS_TRITON_SERVER` names a server."""
    settings = Settings.load()
    parser = argparse.ArgumentParser(description="Install the Triton server for serving replicas.")
    parser.add_argument("--wheel-dir", type=Path, default=SHARE / "wheels", help="default: %(default)s")
    parser.add_argument("--dest", type=Path, help="default: AIOS_TRITON_HOME, else `triton` under AIOS_HOME")
    options = parser.parse_args()
    try:
        if settings.triton_server and not options.dest:
            print(locate(settings).server)
            return
        assert settings.triton_home is not None  # filled in by Settings
        print(install(options.dest or settings.triton_home, options.wheel_dir))
    except (TritonMissing, FileNotFoundError) as error:
        sys.exit(f"Triton cannot be installed: {error}")


if __name__ == "__main__":
    main()
