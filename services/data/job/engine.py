"""Where the steps of a transform that go row by row are done: in this process, or by others (on_ray.py).

A step is a function of a module, of a piece of a table and of what it is given as JSON. It makes a piece of another table
and tells figures, as JSON too. What it makes of a row depends on that row and on what it is given alone, so that nothing
in a result depends on where a table was cut, or on who did the pieces. Between processes go the step's name, Arrow's IPC
format and JSON: bytes that are the same wherever they are made.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import pyarrow as pa

PIECE_BYTES = 8 << 20  # in memory: large beside what it costs to send one, small beside what a process holds
Given = Mapping[str, Any]
Told = dict[str, Any]
Step = Callable[["pa.Table", Given], tuple["pa.Table", Told]]
Done = tuple[bytes, str]
"""A table in Arrow's IPC format, and what was told, as JSON."""


class Engine(Protocol):
    """Does one step to many pieces."""

    @property
    def piece_bytes(self) -> int:
        """Size of a piece in memory."""

    def run(self, step: str, given: str, pieces: Iterable[bytes]) -> Iterator[Done]:
        """What `call` makes of each piece, in their order."""

    def close(self) -> None:
        """Let go of everybody who worked."""


@dataclass(frozen=True)
class Local:
    """In this process, one piece after the other: a job has asked the pool for one processor."""

    piece_bytes: int = PIECE_BYTES

    def run(self, step: str, given: str, pieces: Iterable[bytes]) -> Iterator[Done]:
        return (call(step, given, piece) for piece in pieces)

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Made:
    """What came of a table."""

    table: "pa.Table"
    told: list[tuple[int, Told]]
    """Of each piece: the number of its first row, and what was told."""

    def total(self, name: str) -> int:
        """The sum of a figure that every piece told."""
        return sum(int(told[name]) for _, told in self.told)


def over(engine: Engine, step: Step, table: "pa.Table", **given: object) -> Made:
    """Do a step to a whole table, and put together what comes of it.

    Args:
        step: A function at the top of a module. Its name is sent, never its code.
        table: Those columns that the step looks at.
    """
    rows = max(1, table.num_rows * engine.piece_bytes // max(1, table.nbytes))
    starts = range(0, max(1, table.num_rows), rows)
    pieces = (_packed(table.slice(start, rows)) for start in starts)
    name = f"{step.__module__}:{step.__qualname__}"
    tables, told = [], []
    for start, (made, figures) in zip(starts, engine.run(name, json.dumps(given), pieces), strict=True):
        tables.append(_unpacked(made))
        told.append((start, json.loads(figures)))
    return Made(pa.concat_tables(tables).combine_chunks(), told)


def call(step: str, given: str, piece: bytes) -> Done:
    """Do one step to one piece."""
    module, _, function = step.partition(":")
    made, told = getattr(import_module(module), function)(_unpacked(piece), json.loads(given))
    return _packed(made), json.dumps(told)


def _packed(table: "pa.Table") -> bytes:
    out = pa.BufferOutputStream()
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    return bytes(out.getvalue())


def _unpacked(piece: bytes) -> "pa.Table":
    with pa.ipc.open_stream(pa.py_buffer(piece)) as reader:
        return reader.read_all()
