"""A directory that holds one version of a dataset, and remembers which."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

MARK = ".aios-dataset.json"
"""In such a directory: what it was checked out from."""


@dataclass(frozen=True)
class Mark:
    """Which version a directory was checked out from, in a file of the directory."""

    dataset: str
    version: str
    branch: str = ""

    @classmethod
    def read(cls, folder: Path) -> "Mark | None":
        """The mark of a directory; None for one that is no checkout."""
        try:
            return cls(**json.loads((folder / MARK).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, folder: Path) -> None:
        """Set the mark of a directory."""
        (folder / MARK).write_text(json.dumps(asdict(self)))


def prune(folder: Path, kept: set[Path]) -> None:
    """Remove the files of an earlier version, and directories that are empty then."""
    for root, directories, names in os.walk(folder, topdown=False):
        for file in (Path(root, name) for name in names):
            if file not in kept and file != folder / MARK:
                file.unlink()
        for directory in (Path(root, name) for name in directories):
            if not directory.is_symlink() and not any(directory.iterdir()):
                directory.rmdir()
