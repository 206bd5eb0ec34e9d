"""Figures of a process over time, as OpenTelemetry metrics, for the collector that an operator names.

Without a collector nothing is measured and nothing is sent. Names and units follow OpenTelemetry's semantic
conventions; what is the platform's own begins with `aios.`.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass

from opentelemetry import metrics
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import CallbackOptions, Histogram, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

EVERY_SECONDS = 15.0
EXPORT_TIMEOUT_SECONDS = 5.0
CALL_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Bounds of what calls are counted by."""

Labels = Mapping[str, str]
Look = Callable[[], Awaitable[Iterable[tuple[float, Labels]]]]


def setup(service: str, collector: str) -> None:
    """Send this process's figures to `collector` (`host:port`, OTLP over gRPC), as `service`."""
    exporter = OTLPMetricExporter(endpoint=collector, insecure=True, timeout=EXPORT_TIMEOUT_SECONDS)
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=EVERY_SECONDS * 1000)
    about = Resource.create({"service.name": service, "service.instance.id": f"{service}-{os.getpid()}"})
    metrics.set_meter_provider(MeterProvider([reader], resource=about))


def shutdown() -> None:
    """Send what is left."""
    provider = metrics.get_meter_provider()
    if isinstance(provider, MeterProvider):
        provider.shutdown()


def calls() -> Histogram:
    """How long the calls took that a server answered."""
    return _meter().create_histogram(
        "rpc.server.call.duration", "s", "Calls answered.", explicit_bucket_boundaries_advisory=CALL_SECONDS
    )


def observe(name: str, about: str, true: Callable[[], bool]) -> None:
    """Measure something that is so (1) or not (0); `true` is asked from another thread."""

    def now(options: CallbackOptions) -> list[Observation]:
        return [Observation(int(true()))]

    _meter().create_observable_gauge(name, [now], "", about)


@dataclass
class Levels:
    """A figure that is looked up every few seconds, once for each set of labels: `run` is a loop of the process."""

    name: str
    unit: str
    about: str
    look: Look

    def __post_init__(self) -> None:
        self._found: list[Observation] = []
        # The exporter's thread takes what was found last: it never waits for a database.
        _meter().create_observable_gauge(self.name, [self._now], self.unit, self.about)

    async def run(self) -> None:
        """Look until cancelled, where anybody measures."""
        while isinstance(metrics.get_meter_provider(), MeterProvider):
            self._found = [Observation(value, dict(labels)) for value, labels in await self.look()]
            await asyncio.sleep(EVERY_SECONDS)
        await asyncio.Event().wait()

    def _now(self, options: CallbackOptions) -> list[Observation]:
        return self._found


def _meter() -> metrics.Meter:
    return metrics.get_meter("aios")
