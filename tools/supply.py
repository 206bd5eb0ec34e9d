"""`python tools/supply.py`: what is installed is what the locks pin, checked without a network.

- Every requirement of every lock is pinned by `==` and has SHA-256 hashes; none comes from a URL.
- Every distribution in this environment is in a lock, at that version, and its files are those of its own record.
- Nothing but what is named below runs when an interpreter starts (`*.pth`, `sitecustomize`, `usercustomize`): a `.pth`
  is how a compromised release of a dependency runs before anything imports it.
"""

import base64
import hashlib
import re
import site
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REQUIREMENTS = Path(__file__).parents[1] / "requirements"
OF_THIS_ENVIRONMENT = ("bootstrap", "common", "digits")
"""The locks that `tools/install.sh` installs from; the others are of environments of their own."""
UNLOCKED = {
    "aios-platform": "this project",
    "pip": "comes with the interpreter",
    "setuptools": "comes with the interpreter before the lock replaces it",
    "torch": "the build that fits the machine, chosen at install time by exact version",
}
PTH = {
    "_aios_platform.pth": "the checkout, for an editable install",
    "distutils-precedence.pth": "setuptools: its own distutils, where setuptools is imported",
}
CHUNK = 1 << 20


def locked(text: str) -> Iterator[tuple[Requirement, list[str]]]:
    """The requirements of a lock, each with its hashes."""
    for entry in re.sub(r"\\\n", " ", text).splitlines():
        line = entry.partition("#")[0].strip()
        if line:
            words = line.split(" --hash=")
            yield Requirement(words[0].strip()), [word.strip() for word in words[1:]]


def wrong_locks() -> Iterator[str]:
    """Requirements that are not pinned as they must be."""
    for lock in sorted(REQUIREMENTS.glob("*.lock")):
        for requirement, hashes in locked(lock.read_text()):
            where = f"{lock.name}: {requirement.name}"
            operators = [each.operator for each in requirement.specifier]
            if requirement.url or operators != ["=="]:
                yield f"{where} is not pinned by =="
            if not hashes or not all(re.fullmatch("sha256:[0-9a-f]{64}", each) for each in hashes):
                yield f"{where} has no SHA-256 hash"


def wrong_installed() -> Iterator[str]:
    """Distributions that no lock names, in another version, or changed since they were installed."""
    versions: dict[str, set[str]] = {}
    for lock in OF_THIS_ENVIRONMENT:
        for requirement, _ in locked((REQUIREMENTS / f"{lock}.lock").read_text()):
            for each in requirement.specifier:
                versions.setdefault(canonicalize_name(requirement.name), set()).add(each.version)
    for distribution in metadata.distributions():
        name = canonicalize_name(distribution.name)
        if name not in UNLOCKED and distribution.version not in versions.get(name, ()):
            yield f"{name} {distribution.version} is installed and in no lock; locked: {versions.get(name)}"
        yield from wrong_files(distribution)


def wrong_files(distribution: metadata.Distribution) -> Iterator[str]:
    """Files of a distribution that are missing or differ from what its wheel said."""
    for entry in distribution.files or ():
        # A script's first line is written for this environment, and bytecode is made here: neither has a digest.
        if entry.hash is None or entry.parts[0] == "..":
            continue
        path = Path(str(distribution.locate_file(entry)))
        if not path.exists():
            yield f"{distribution.name}: {entry} is missing"
        elif _digest(path, entry.hash.mode) != entry.hash.value:
            yield f"{distribution.name}: {entry} was changed after its installation"


def wrong_starts() -> Iterator[str]:
    """What would run at the start of an interpreter and is not known."""
    for folder in map(Path, site.getsitepackages()):
        for found in folder.glob("*.pth"):
            if found.name not in PTH:
                yield f"{found} runs at every start of the interpreter: who needs it? (tools/supply.py: PTH)"
        for module in ("sitecustomize", "usercustomize"):
            for found in folder.glob(f"{module}*"):
                yield f"{found} runs at every start of the interpreter"


def _digest(path: Path, algorithm: str) -> str:
    digest = hashlib.new(algorithm)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()


def main() -> None:
    wrong = [*wrong_locks(), *wrong_installed(), *wrong_starts()]
    for each in wrong:
        print(each, file=sys.stderr)
    if wrong:
        raise SystemExit("The environment is not what the locks say: rm -r .venv && make install")
    count = sum(1 for _ in metadata.distributions())
    print(f"{count} distributions are as locked, and nothing unknown runs at start-up")


if __name__ == "__main__":
    main()
