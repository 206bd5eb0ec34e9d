"""The data that the recipes are measured on, as they read it."""

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from bench import fashion

NO_FASHION = f"no {fashion.FOLDER}: left out (apt install dataset-fashion-mnist)"
LISTS = Path.home() / ".cache" / "aios-bench" / "apt"
_FIELD = re.compile(r"^([\w-]+):((?:.*)(?:\n[ \t].*)*)", re.MULTILINE)
NO_TEXTS = "no package descriptions here: left out (they come with apt-get update)"
SECTIONS = 20
TEXTS = 20_000
"""Descriptions, at least: with fewer the figures are of other data."""


def scenes(folder: Path) -> None:
    """6,000 scenes to learn from, 1,000 to be asked about: images, masks and boxes."""
    found, _ = fashion.arrays()
    parts = (("train", slice(fashion.TRAIN), 6_000), ("test", slice(fashion.TRAIN, None), 1_000))
    for split, part, count in parts:
        random = np.random.default_rng(count)
        things, kinds = found["image"][part], found["label"][part]
        images, masks = np.zeros((count, 64, 64), np.uint8), np.zeros((count, 64, 64), np.uint8)
        boxes = np.full((count, 3, 5), -1.0, np.float32)
        for row in range(count):
            corners = random.permutation([(0, 0), (0, 34), (34, 0), (34, 34)])[:3]
            for number, corner in enumerate(corners):
                index = random.integers(len(things))
                top, left = corner + random.integers(0, 3, 2)
                place = (row, slice(top, top + 28), slice(left, left + 28))
                images[place] = np.maximum(images[place], things[index])
                masks[place][things[index] > 0] = kinds[index] + 1
                down, right = np.nonzero(things[index])
                sides = (left + right.min(), top + down.min(), left + right.max() + 1, top + down.max() + 1)
                boxes[row, number] = (kinds[index], *sides)
        (folder / split).mkdir()
        for name, content in (("images", images), ("masks", masks), ("boxes", boxes)):
            np.save(folder / split / f"{name}.npy", content)


def descriptions() -> list[tuple[str, str]]:
    """Debian packages' whole descriptions, each with its section, of the sections that most packages have, shuffled.

    None where apt has no index here, or no translations, which its own settings may leave out.
    """
    options = ["-o", f"Dir::State::Lists={LISTS}", "-o", "Acquire::Languages=en"]
    (LISTS / "partial").mkdir(parents=True, exist_ok=True)
    try:
        if not _indices("i18n_Translation-en"):
            subprocess.run(["apt-get", "update", *options], capture_output=True, check=True)
        told = {each["Description-md5"]: each["Description-en"] for each in _entries("i18n_Translation-en")}
        packages = list(_entries("Packages"))
    except (OSError, subprocess.CalledProcessError):
        return []
    found = {
        " ".join(told[each["Description-md5"]].replace("\n .\n", "\n").split()): each["Section"].rpartition(
            "/"
        )[2]
        for each in packages
        if each.get("Description-md5") in told and "Section" in each
    }
    common = {section for section, _ in Counter(found.values()).most_common(SECTIONS)}
    rows = sorted((text, section) for text, section in found.items() if section in common)
    order = np.random.default_rng(0).permutation(len(rows))
    return [rows[index] for index in order] if len(rows) >= TEXTS else []


def _indices(kind: str) -> list[Path]:
    return [path for path in sorted(LISTS.iterdir()) if kind in path.name]


def _entries(kind: str) -> Iterator[dict[str, str]]:
    """The fields of every entry of apt's indices of a kind."""
    for path in _indices(kind):
        read = subprocess.run(
            ["/usr/lib/apt/apt-helper", "cat-file", path], capture_output=True, text=True, check=True
        )
        for entry in read.stdout.strip().split("\n\n"):
            yield {field: value.strip() for field, value in _FIELD.findall(entry)}


def texts(folder: Path, **parts: list[tuple[str, str]]) -> None:
    """Tables of texts and labels, by the names of the parts."""
    for name, rows in parts.items():
        columns = {"text": [row[0] for row in rows], "label": [row[1] for row in rows]}
        pyarrow.parquet.write_table(pa.table(columns), folder / f"{name}.parquet")
