"""Unpacking a wheel: only the server's part, only regular files."""

import stat
import zipfile
from pathlib import Path

import pytest

from services.inference.replica.install import unpack
from services.inference.replica.triton import TritonMissing

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


def files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if not path.is_dir()]
