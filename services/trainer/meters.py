"""What the trainer tells of itself over time."""

from collections.abc import Iterable

from aios.records import Database
from aios.records.counts import by_state
from aios.runtime.meters import Labels, Levels
from services.trainer import tables
from services.trainer.runs import State


def levels(db: Database) -> list[Levels]:
    """Runs by state."""

    async def runs() -> Iterable[tuple[float, Labels]]:
        return await db.read(lambda tx: by_state(tx, tables.runs.c.state, State))

    return [Levels("aios.runs", "{run}", "Runs by state.", runs)]
