"""What the inference service tells of itself over time."""

from collections.abc import Iterable

from aios.records import Database
from aios.records.counts import by_state
from aios.runtime.meters import Labels, Levels
from services.inference import deployments, replicas, store

Found = Iterable[tuple[float, Labels]]


def levels(db: Database) -> list[Levels]:
    """Deployments and replicas by state."""

    async def of_deployments() -> Found:
        return await db.read(lambda tx: by_state(tx, store.deployments.c.state, deployments.State))

    async def of_replicas() -> Found:
        return await db.read(lambda tx: by_state(tx, store.replicas.c.state, replicas.State))

    return [
        Levels("aios.deployments", "{deployment}", "Deployments by state.", of_deployments),
        Levels("aios.replicas", "{replica}", "Replicas by state.", of_replicas),
    ]
