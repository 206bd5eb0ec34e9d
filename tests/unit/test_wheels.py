"""A wheel as code: what is taken, and what is refused with its reason."""

import base64
import hashlib
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from aios.client.runspec import parse
from aios.code import unpack
from aios.errors import InvalidArgument
from aios.wheels import pack_wheel

ABOUT = "tiny-1.0.dist-info"
FILES = {"tiny/__init__.py": b"", "tiny/__main__.py": b"print('tiny')\n"}
LINK = (stat.S_IFLNK | 0o777) << 16


def wheel(
    folder: Path,
    files: Mapping[str, bytes],
    name: str = "tiny-1.0-py3-none-any.whl",
    *,
    modes: Mapping[str, int] | None = None,
    record: bool = True,
) -> Path:
    """A wheel of some files, as a build makes it."""
    held = {**files, f"{ABOUT}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
    lines = [f"{path},sha256={_digest(content)},{len(content)}" for path, content in held.items()]
    if record:
        held[f"{ABOUT}/RECORD"] = "\n".join([*lines, f"{ABOUT}/RECORD,,", ""]).encode()
    made = folder / name
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in held.items():
            entry = zipfile.ZipInfo(path)
            entry.external_attr = (modes or {}).get(path, (stat.S_IFREG | 0o644) << 16)
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return made


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def test_a_wheel_is_unpacked_as_it_would_be_installed(tmp_path: Path) -> None:
    made = wheel(tmp_path, {**FILES, "tiny-1.0.data/purelib/beside.py": b"x = 1\n"})
    pack_wheel(made, tmp_path / "code.tar")
    unpack(tmp_path / "code.tar", tmp_path / "code")
    found = {str(path.relative_to(tmp_path / "code")) for path in (tmp_path / "code").rglob("*.py")}
    assert found == {*FILES, "beside.py"}
    assert (tmp_path / "code" / ABOUT / "RECORD").exists()


def test_the_same_files_are_the_same_code(tmp_path: Path) -> None:
    for number, files in enumerate((FILES, dict(reversed(FILES.items())))):
        (tmp_path / str(number)).mkdir()
        pack_wheel(wheel(tmp_path / str(number), files, record=True), tmp_path / f"{number}.tar")
    first, second = (_members(tmp_path / f"{number}.tar") for number in range(2))
    assert first == second


def _members(archive: Path) -> dict[str, bytes]:
    folder = archive.with_suffix("")
    unpack(archive, folder / "out")
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted((folder / "out").rglob("*.py"))
    }


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"../evil.py": b""}, "no path inside"),
        ({"/etc/evil.py": b""}, "no path inside"),
        ({"a\\..\\b.py": b""}, "no path inside"),
        ({"tiny-1.0.data/scripts/run": b""}, "python -m"),
        ({"tiny-1.0.data/purelib/tiny.py": b"", "tiny.py": b""}, "one place"),
    ],
)
def test_files_that_lie_elsewhere_are_refused(tmp_path: Path, files: dict[str, bytes], why: str) -> None:
    with pytest.raises(InvalidArgument, match=why):
        pack_wheel(wheel(tmp_path, files), tmp_path / "code.tar")


def test_a_link_is_refused(tmp_path: Path) -> None:
    made = wheel(tmp_path, {"tiny.py": b"/etc/passwd"}, modes={"tiny.py": LINK})
    with pytest.raises(InvalidArgument, match="no regular file"):
        pack_wheel(made, tmp_path / "code.tar")


def test_what_expands_beyond_the_limit_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    made = wheel(tmp_path, {"tiny.bin": bytes(101 << 20)})
    assert made.stat().st_size < 1 << 20
    with pytest.raises(InvalidArgument, match="at most"):
        pack_wheel(made, tmp_path / "code.tar")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("tiny.whl", "named like"),
        ("tiny-1.0-py2-none-any.whl", "Python 3"),
        ("other-1.0-py3-none-any.whl", "RECORD and WHEEL"),
    ],
)
def test_a_wheel_of_another_name_is_refused(tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why):
        pack_wheel(wheel(tmp_path, FILES, name), tmp_path / "code.tar")


def test_what_is_not_as_recorded_is_refused(tmp_path: Path) -> None:
    made = wheel(tmp_path, FILES)
    with zipfile.ZipFile(made, "a") as archive:
        archive.writestr("more.py", "import os")
    with pytest.raises(InvalidArgument, match="RECORD says"):
        pack_wheel(made, tmp_path / "code.tar")
    with pytest.raises(InvalidArgument, match="RECORD and WHEEL"):
        pack_wheel(wheel(tmp_path, FILES, record=False), tmp_path / "code.tar")


def test_what_is_no_zip_is_refused(tmp_path: Path) -> None:
    made = tmp_path / "tiny-1.0-py3-none-any.whl"
    with pytest.raises(InvalidArgument, match="No such file"):
        pack_wheel(made, tmp_path / "code.tar")
    made.write_bytes(b"PK" + bytes(100))
    with pytest.raises(InvalidArgument, match="no sound zip"):
        pack_wheel(made, tmp_path / "code.tar")


def test_code_comes_from_a_wheel_or_from_a_folder() -> None:
    assert parse({"command": "python -m tiny", "wheel": "dist/tiny-1.0-py3-none-any.whl"}).wheel
    with pytest.raises(InvalidArgument, match="keep one"):
        parse({"command": "python -m tiny", "wheel": "tiny.whl", "code": "src"})
    with pytest.raises(InvalidArgument, match="names a recipe"):
        parse({"recipe": "mlp", "dataset": "digits", "wheel": "tiny.whl"})


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_way_to_compress_that_knows_no_bound_is_refused(tmp_path: Path, method: int) -> None:
    made = wheel(tmp_path, FILES)
    with zipfile.ZipFile(made, "a") as archive:
        archive.writestr("tiny/more.py", b"0" * 1000, method)
    with pytest.raises(InvalidArgument, match="compressed in a way that wheels are not"):
        pack_wheel(made, tmp_path / "code.tar")


def test_no_more_is_read_than_a_file_says_that_it_holds(tmp_path: Path) -> None:
    made = wheel(tmp_path, {**FILES, "tiny/zeros.py": bytes(1_234_567)})
    content = made.read_bytes()
    size = (1_234_567).to_bytes(4, "little")
    assert content.count(size) == 2  # in the file's own header, and in the directory at the end
    made.write_bytes(content.replace(size, (10).to_bytes(4, "little")))
    with pytest.raises(InvalidArgument, match="not taken"):
        pack_wheel(made, tmp_path / "code.tar")
