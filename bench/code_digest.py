"""Which code a kept figure was made by: that of the recipes, of what they call, and of the optimisation."""

import hashlib
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
OURS = ("aios/train", "services/trainer/job", "services/trainer/optimize", "services/trainer/recipes")


@cache
def sha256(root: Path = _ROOT) -> str:
    """Digest of all its files: any change of them is a figure to be made again."""
    digest = hashlib.sha256()
    for part in OURS:
        for file in sorted((root / part).rglob("*.py")):
            digest.update(f"{file.relative_to(root).as_posix()}\0".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
