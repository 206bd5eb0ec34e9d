"""Rows that are put aside, each with every reason that was found."""

from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa

from services.data.job.parts import Array

REASON, ROW = "_reason", "_row"
"""Columns of a quarantined row: why, and its number in the part that it was in."""


class Rejects:
    """Gathers reasons; the rows themselves stay where they are until `divide`."""

    def __init__(self, parts: Mapping[str, "pa.Table"]) -> None:
        self._reasons: dict[str, dict[int, list[str]]] = {name: {} for name in parts}
        self._rows = {name: part.num_rows for name, part in parts.items()}

    def add(self, part: str, rows: Array | Iterable[int], reason: str) -> None:
        """Put rows aside: a mask, or their numbers."""
        chosen = (
            np.flatnonzero(rows).tolist() if isinstance(rows, np.ndarray) and rows.dtype == bool else rows
        )
        for row in chosen:
            self._reasons[part].setdefault(int(row), []).append(reason)

    def add_all(self, part: str, found: Iterable[tuple[Array, str]]) -> None:
        """Several of them."""
        for rows, reason in found:
            self.add(part, rows, reason)

    def kept(self, part: str) -> Array:
        """Numbers of the rows that nothing was said against yet."""
        mask = np.ones(self._rows[part], dtype=bool)
        mask[list(self._reasons[part])] = False
        return np.flatnonzero(mask)

    def counts(self) -> dict[str, int]:
        """Rows by reason. A row with two reasons counts for both."""
        found: dict[str, int] = {}
        for reasons in self._reasons.values():
            for each in reasons.values():
                for reason in each:
                    short = reason.partition(": ")[0]
                    found[short] = found.get(short, 0) + 1
        return dict(sorted(found.items()))

    def divide(self, parts: Mapping[str, "pa.Table"]) -> tuple[dict[str, "pa.Table"], dict[str, "pa.Table"]]:
        """What stays, and what is put aside."""
        kept, aside = {}, {}
        for name, table in parts.items():
            kept[name] = table.take(pa.array(self.kept(name))).combine_chunks()
            reasons = self._reasons[name]
            rows = sorted(reasons)
            put = table.take(pa.array(rows, pa.int64()))
            put = put.append_column(ROW, pa.array(rows, pa.int64()))
            aside[name] = put.append_column(
                REASON, pa.array(["; ".join(reasons[row]) for row in rows], pa.string())
            )
        return kept, aside
