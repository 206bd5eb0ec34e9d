"""A Python wheel as the code of a run: what it would install, as the archive that a working tree is packed into.

A wheel is a zip that anybody may have made. Regular files alone are taken, each with the digest that its own RECORD
says, within the limits of code; nothing of it is run here. Where the job runs, the archive is unpacked, not installed.
"""

import base64
import csv
import hashlib
import re
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from aios.code import BYTES_MAX, FILES_MAX, Member, write_archive
from aios.errors import InvalidArgument

_NAME = re.compile(
    r"(?P<package>[^-]+-[^-]+)(-\d[^-]*)?-(?P<pythons>[^-]+)-[^-]+-[^-]+\.whl"
)  # as PEP 427 has it
_INSTALLED = ("purelib", "platlib")
"""Of a wheel's `.data`: what lies beside its packages once it is installed."""
_UNSIGNED = ("RECORD", "RECORD.jws", "RECORD.p7s")
_ENCRYPTED = 0x1
_UNIX = 16


def pack_wheel(wheel: Path, target: Path) -> None:
    """Write the archive of a wheel's files to `target`.

    Raises:
        InvalidArgument: it is no wheel, or none that is taken; with the reason.
    """
    named = _NAME.fullmatch(wheel.name)
    if named is None:
        raise _refused(wheel, "it must be named like digits-1.0-py3-none-any.whl")
    if not any(tag.startswith(("py3", "cp3")) for tag in named["pythons"].split(".")):
        raise _refused(wheel, f"it is for {named['pythons']}, and the platform runs Python 3")
    try:
        with zipfile.ZipFile(wheel) as archive:
            held = _read(wheel, archive)
    except OSError as error:
        raise _refused(wheel, f"it cannot be read: {error.strerror or error}") from None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise _refused(wheel, f"it is no sound zip: {error}") from None
    _check(wheel, named["package"], held)
    installed = {_place(wheel, named["package"], path): each for path, each in held.items()}
    if len(installed) < len(held):
        raise _refused(wheel, "two of its files would lie in one place")
    write_archive(target, sorted(installed.items()))


def _read(wheel: Path, archive: zipfile.ZipFile) -> dict[PurePosixPath, Member]:
    """Every file; sizes are looked at before anything is unpacked."""
    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    total = sum(entry.file_size for entry in entries)
    if total > BYTES_MAX or len(entries) > FILES_MAX:
        raise _refused(
            wheel,
            f"it holds {len(entries)} files of {total >> 20} MiB; at most {FILES_MAX} of {BYTES_MAX >> 20} MiB are sent",
        )
    held: dict[PurePosixPath, Member] = {}
    for entry in entries:
        path, mode = PurePosixPath(entry.filename), entry.external_attr >> _UNIX
        if path.is_absolute() or ".." in path.parts or "\\" in entry.filename or path in held:
            raise _refused(wheel, f"{entry.filename[:80]!r} is no path inside it, or is there twice")
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise _refused(wheel, f"{entry.filename[:80]!r} is no regular file")
        if entry.flag_bits & _ENCRYPTED:
            raise _refused(wheel, f"{entry.filename[:80]!r} is encrypted")
        held[path] = Member(_content(wheel, archive, entry), executable=bool(mode & stat.S_IXUSR))
    return held


def _content(wheel: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """A file, read no further than the size that it states: more may come of few bytes."""
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _refused(wheel, f"{entry.filename[:80]!r} is compressed in a way that wheels are not")
    with archive.open(entry) as file:
        return file.read(entry.file_size)


def _check(wheel: Path, package: str, held: Mapping[PurePosixPath, Member]) -> None:
    """Each file is in RECORD with its digest."""
    described = PurePosixPath(f"{package}.dist-info")
    record = held.get(described / "RECORD")
    if record is None or described / "WHEEL" not in held:
        raise _refused(wheel, f"it has no {described}/RECORD and WHEEL")
    try:
        lines = [line for line in csv.reader(record.content.decode().splitlines()) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise _refused(wheel, f"its RECORD cannot be read: {error}") from None
    said = {PurePosixPath(line[0]): line[1] for line in lines if len(line) > 1}
    unsigned = {described / name for name in _UNSIGNED}
    for path, member in held.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(member.content).digest()).rstrip(b"=").decode()
        if path not in unsigned and said.get(path) != f"sha256={digest}":
            raise _refused(wheel, f"{str(path)[:80]!r} is not what its RECORD says, by SHA-256")


def _place(wheel: Path, package: str, path: PurePosixPath) -> PurePosixPath:
    """Where a file lies beside the packages."""
    if path.parts[0] != f"{package}.data":
        return path
    if len(path.parts) < 3 or path.parts[1] not in _INSTALLED:
        raise _refused(
            wheel,
            f"{str(path)[:80]!r} belongs outside of its packages, where a run installs nothing: "
            "start it by `python -m`, and keep data inside of a package",
        )
    return PurePosixPath(*path.parts[2:])


def _refused(wheel: Path, why: str) -> InvalidArgument:
    return InvalidArgument.of("wheel", f"{wheel.name} is not taken: {why}")
