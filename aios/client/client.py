"""The async client: one connection, one part per kind of resource."""

from collections.abc import Mapping
from functools import cached_property
from typing import Self

from numpy.typing import ArrayLike

from aios.client.annotation import Labels
from aios.client.connection import Connection
from aios.client.credentials import Credentials, resolve
from aios.client.datasets import Datasets
from aios.client.deployments import Deployments
from aios.client.edge import Edge
from aios.client.events import Events
from aios.client.identity import Projects, Tokens
from aios.client.ingest import Ingest
from aios.client.jobs import Jobs
from aios.client.models import Lineage, Models
from aios.client.monitoring import Monitoring
from aios.client.predictions import Prediction, Predictions
from aios.client.privacy import Privacy
from aios.client.queues import Queues
from aios.client.runs import Runs
from aios.client.sweeps import Sweeps
from aios.client.traces import Traces
from aios.client.transforms import Transforms


class AsyncClient:
    """Speaks to one AIOS as one caller in one project. Dials at the first call; close it, or use `async with`.

    Args:
        address: `https://aios.example.org`. Where it, the token or the project is empty: the environment
            (AIOS_ADDRESS, AIOS_TOKEN or AIOS_TOKEN_FILE, AIOS_PROJECT), then what `aios login` saved, then the stack
            on this machine.
    """

    def __init__(
        self, address: str = "", token: str = "", project: str = "", *, credentials: Credentials | None = None
    ) -> None:
        self._connection = Connection(credentials or resolve(address, token, project))

    @property
    def address(self) -> str:
        """Of the public door."""
        return self._connection.credentials.address

    @property
    def credentials(self) -> Credentials:
        """Who calls, and where."""
        return self._connection.credentials

    @cached_property
    def projects(self) -> Projects:
        return Projects(self._connection)

    @cached_property
    def tokens(self) -> Tokens:
        return Tokens(self._connection)

    @cached_property
    def datasets(self) -> Datasets:
        return Datasets(self._connection)

    @cached_property
    def monitoring(self) -> Monitoring:
        """Predictions that are kept and explained, drift, feedback, alerts."""
        return Monitoring(self._connection)

    @cached_property
    def transforms(self) -> Transforms:
        return Transforms(self._connection)

    @cached_property
    def ingest(self) -> Ingest:
        """What devices publish, as datasets."""
        return Ingest(self._connection)

    @cached_property
    def edge(self) -> Edge:
        """Devices that run models where no platform is."""
        return Edge(self._connection)

    @cached_property
    def labels(self) -> Labels:
        return Labels(self._connection)

    @cached_property
    def models(self) -> Models:
        return Models(self._connection)

    @cached_property
    def lineage(self) -> Lineage:
        return Lineage(self._connection)

    @cached_property
    def privacy(self) -> Privacy:
        return Privacy(self._connection)

    @cached_property
    def jobs(self) -> Jobs:
        return Jobs(self._connection)

    @cached_property
    def queues(self) -> Queues:
        return Queues(self._connection)

    @cached_property
    def runs(self) -> Runs:
        return Runs(self._connection)

    @cached_property
    def sweeps(self) -> Sweeps:
        return Sweeps(self._connection)

    @cached_property
    def deployments(self) -> Deployments:
        return Deployments(self._connection)

    @cached_property
    def predictions(self) -> Predictions:
        return Predictions(self._connection)

    @cached_property
    def events(self) -> Events:
        return Events(self._connection)

    @cached_property
    def traces(self) -> Traces:
        return Traces(self._connection)

    async def predict(
        self, deployment: str, inputs: ArrayLike | Mapping[str, ArrayLike], *, timeout: float = 60.0
    ) -> Prediction:
        """Ask a deployment; see `Predictions.predict`."""
        return await self.predictions.predict(deployment, inputs, timeout=timeout)

    async def close(self) -> None:
        """Close what was opened."""
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
