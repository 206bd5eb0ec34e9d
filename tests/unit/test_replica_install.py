"""Unpacking a wheel: only the server's part, only regular files; and who needs it waits for it."""

import asyncio
import fcntl
import json
import stat
import zipfile
from pathlib import Path

import pytest

from aios.config import Settings
from services.inference.replica.install import unpack
from services.inference.replica.triton import LOCK, STAMP, TritonMissing, unpacked

FILE, LINK = stat.S_IFREG | 0o644, stat.S_IFLNK | 0o777


def wheel(directory: Path, members: dict[str, int]) -> Path:
    path = directory / "wheel.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, mode in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, "content")
    return path


def test_only_the_servers_part_is_unpacked_with_its_run_bits(tmp_path: Path) -> None:
    members = {
        "pytriton/__init__.py": FILE,
        "pytriton/tritonserver/bin/tritonserver": stat.S_IFREG | 0o755,
        "pytriton/tritonserver/backends/python/utils.py": FILE,
        "nvidia_pytriton.libs/libz.so": FILE,
    }
    unpack(wheel(tmp_path, members), tmp_path / "out")
    made = {
        p.relative_to(tmp_path / "out").as_posix(): p.stat().st_mode & 0o777 for p in files(tmp_path / "out")
    }
    assert made == {
        "pytriton/tritonserver/bin/tritonserver": 0o755,
        "pytriton/tritonserver/backends/python/utils.py": 0o644,
        "nvidia_pytriton.libs/libz.so": 0o644,
    }


@pytest.mark.parametrize(
    ("name", "mode"),
    [("pytriton/tritonserver/../../../escaped", FILE), ("pytriton/tritonserver/link", LINK)],
)
def test_what_could_leave_the_directory_is_refused(tmp_path: Path, name: str, mode: int) -> None:
    with pytest.raises(TritonMissing, match="not a regular file"):
        unpack(wheel(tmp_path, {name: mode}), tmp_path / "out")
    assert files(tmp_path / "out") == []


def test_a_replica_waits_while_the_server_is_unpacked_and_says_so(tmp_path: Path) -> None:
    settings, said = Settings.load({"AIOS_TRITON_HOME": str(tmp_path)}), []

    async def wait() -> Path:
        with (tmp_path / LOCK).open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            heard = asyncio.Event()

            async def say(what: str) -> None:
                said.append(what)
                heard.set()

            waiting = asyncio.create_task(unpacked(settings, say))
            await heard.wait()
            assert not waiting.done()
            (tmp_path / "current").mkdir()
            (tmp_path / "current" / STAMP).write_text(json.dumps({"libpython": "/usr/lib"}))
        return (await waiting).server

    assert asyncio.run(wait()) == tmp_path / "current" / "pytriton" / "tritonserver" / "bin" / "tritonserver"
    assert "is being unpacked (0 s so far)" in said[0]


def test_nobody_waits_for_a_server_that_nobody_unpacks(tmp_path: Path) -> None:
    async def say(what: str) -> None:
        raise AssertionError(what)

    (tmp_path / LOCK).touch()
    with pytest.raises(TritonMissing, match="no Triton server"):
        asyncio.run(unpacked(Settings.load({"AIOS_TRITON_HOME": str(tmp_path)}), say))


def files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if not path.is_dir()]
