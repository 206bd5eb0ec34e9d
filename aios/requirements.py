"""A lock of Python packages: each one a version and the SHA-256 of its files. Pure.

The format is that of `pip install --require-hashes`, as `uv pip compile --generate-hashes` and `pip-compile` write it. Only
packages by version are taken: no options, no addresses, no files, so that reading a lock reaches nothing that whoever
installs it did not choose.
"""

import re

from aios.errors import InvalidArgument

REQUIREMENTS_FILE = "requirements.lock"
"""The one file of a version that holds a lock."""
REQUIREMENTS_DATASET = "run-requirements"
"""The dataset of a project whose versions are the locks of its commands."""
BYTES_MAX = 1 << 20
PACKAGES_MAX = 1_000
_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9,._ -]+\])?==[A-Za-z0-9][A-Za-z0-9.!+_-]*")
_MARKER = re.compile(r"[A-Za-z0-9_.'\"<>=!() ,*+-]*")
_HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def locked(text: str, field: str = "requirements") -> list[str]:
    """The packages of a lock, one line for each with its marker and its hashes, sorted.

    Raises:
        InvalidArgument: naming the line and what to do.
    """
    if len(text.encode(errors="replace")) > BYTES_MAX:
        raise InvalidArgument.of(field, f"must not be longer than {BYTES_MAX >> 10} KiB")
    found = []
    for number, line in _joined(text):
        words = line.split(" --hash=")
        package, semicolon, marker = words[0].partition(";")
        package, hashes = package.strip(), sorted({f"--hash={each.strip()}" for each in words[1:]})
        if not _PACKAGE.fullmatch(package) or not _MARKER.fullmatch(marker):
            raise InvalidArgument.of(
                field,
                f"line {number}: {line[:80]!r} must be name==version with its hashes: "
                "`uv pip compile --generate-hashes` writes it so",
            )
        if not hashes or not all(map(_HASH.fullmatch, hashes)):
            raise InvalidArgument.of(
                field,
                f"line {number}: {package} must have its hashes, --hash=sha256:...: add --generate-hashes",
            )
        found.append(" ".join([package, *((f"; {marker.strip()}",) if semicolon else ()), *hashes]))
    if not found:
        raise InvalidArgument.of(field, "names no package")
    if len(found) > PACKAGES_MAX:
        raise InvalidArgument.of(field, f"has more than {PACKAGES_MAX} packages")
    return sorted(set(found))


def _joined(text: str) -> list[tuple[int, str]]:
    """Lines with what `\\` continues, without comments; each with its number, from 1."""
    found, begun, parts = [], 0, list[str]()
    for number, raw in enumerate(text.splitlines(), 1):
        line = re.sub(r"(^|\s)#.*", "", raw).strip()
        begun = begun or number
        more = line.endswith("\\")
        parts.append(line.removesuffix("\\").strip())
        if not more:
            if whole := " ".join(filter(None, parts)):
                found.append((begun, whole))
            begun, parts = 0, []
    if whole := " ".join(filter(None, parts)):
        found.append((begun, whole))
    return found
