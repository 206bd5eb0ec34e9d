"""How many rows there are of each kind."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Any

from sqlalchemy import Column, Select, func, select

from aios.records.tx import Tx


def by_state(tx: Tx, column: Column[Any], states: Iterable[StrEnum]) -> list[tuple[float, dict[str, str]]]:
    """The number of rows in each state, those without any too, as figures to be measured over time."""
    query: Select[Any] = select(column.label("state"), func.count().label("rows")).group_by(column)
    counts = {row.state: row.rows for row in tx.execute(query)}
    return [(counts.get(state.value, 0), {"state": state.value.lower()}) for state in states]
