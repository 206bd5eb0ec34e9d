"""What a result depends on beside its input: our code, and the libraries that it is worked out with."""

import hashlib
import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[3]
_OURS = (
    "aios/formats",
    "aios/train/augment.py",
    "services/data/job",
    "services/data/transform_types.py",
    "services/data/transforms.py",
)
_LIBRARIES = ("numpy", "pillow", "pyarrow")


@cache
def sha256() -> str:
    """Digest of the code that a transform's result depends on."""
    digest = hashlib.sha256()
    for part in _OURS:
        path = _ROOT / part
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            digest.update(f"{file.relative_to(_ROOT).as_posix()}\0".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def build() -> str:
    """What processes that work on one result must have in common."""
    libraries = ", ".join(f"{each} {version(each)}" for each in _LIBRARIES)
    return f"code {sha256()[:12]}, {libraries}, {platform.machine()}"
