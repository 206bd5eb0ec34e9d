"""Which item of a label project a file of another tool means."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import PurePosixPath

from aios.labels.records import Labelled, Record


class Finder:
    """Finds items without their labels: by path, by the end of it where only one has that, or by text."""

    def __init__(self, known: Labelled) -> None:
        bare = [replace(record, label=None, annotations={}) for record in known.records]
        self._by_key = {record.key: record for record in bare}
        self._by_name = _grouped((PurePosixPath(each.path).name, each) for each in bare if each.row is None)
        self._by_stem = _grouped((stem_of(each.path), each) for each in bare if each.row is None)
        self._by_text = _grouped((str(each.data["text"]), each) for each in bare if "text" in each.data)

    def file(self, path: str) -> Record:
        """The item that is a file: of this path, else the one file of its name, else a new item."""
        return (
            self._by_key.get((path, -1))
            or self._only(self._by_name, PurePosixPath(path).name)
            or Record(path)
        )

    def row(self, path: str, row: int | None) -> Record:
        """The item of exactly this path and row, else a new one."""
        made = Record(path, row)
        return self._by_key.get(made.key, made)

    def stem(self, stem: str) -> Record | None:
        """The file whose path without its ending is this, or ends so where only one does."""
        return self._only(self._by_stem, stem) or self._only(
            _grouped((PurePosixPath(path).name, each[0]) for path, each in self._by_stem.items()),
            PurePosixPath(stem).name,
        )

    def text(self, text: str) -> Record | None:
        """The item that shows exactly this text."""
        return self._only(self._by_text, text)

    @staticmethod
    def _only(groups: Mapping[str, list[Record]], key: str) -> Record | None:
        found = groups.get(key, [])
        return found[0] if len(found) == 1 else None


def stem_of(path: str) -> str:
    """A path without its ending."""
    return str(PurePosixPath(path).with_suffix(""))


def _grouped(pairs: Iterable[tuple[str, Record]]) -> Mapping[str, list[Record]]:
    groups: dict[str, list[Record]] = defaultdict(list)
    for key, record in pairs:
        groups[key].append(record)
    return groups
