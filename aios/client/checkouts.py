"""A directory that holds one version of a dataset, and remembers which."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aios import transfer

if TYPE_CHECKING:
    from aios.trees.tree import Tree

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


def edits(folder: Path, before: "Tree", after: "Tree") -> list[str]:
    """What was changed in a directory since a version was checked out, and would be lost with another one: `~` changed,
    `+` added, `-` removed, then the path.

    Files that are as the other version has them are no edits: a checkout that was cut off can be begun again.
    """
    old, new = ({leaf.path: leaf.sha256 for leaf in tree.leaves()} for tree in (before, after))
    found, there = [], set[str]()
    for root, _, names in os.walk(folder):
        for file in (Path(root, name) for name in names):
            path = file.relative_to(folder).as_posix()
            there.add(path)
            if path == MARK or (file.name.startswith(".") and file.name.endswith(".partial")):
                continue
            known = {old.get(path), new.get(path)} - {None}
            if not file.is_file() or file.is_symlink() or not known or transfer.digest(file)[0] not in known:
                found.append((path, "~" if path in old else "+"))
    # What the other version lacks too stays away.
    found += [(path, "-") for path in old.keys() & new.keys() - there]
    return [f"{sign} {path}" for path, sign in sorted(found)]


def prune(folder: Path, kept: set[Path]) -> None:
    """Remove the files of an earlier version, and directories that are empty then."""
    for root, directories, names in os.walk(folder, topdown=False):
        for file in (Path(root, name) for name in names):
            if file not in kept and file != folder / MARK:
                file.unlink()
        for directory in (Path(root, name) for name in directories):
            if not directory.is_symlink() and not any(directory.iterdir()):
                directory.rmdir()
