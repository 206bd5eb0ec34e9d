"""An OTLP receiver: what an OpenTelemetry Collector would get of a platform."""

import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

UNITS = {"s": "_seconds", "ms": "_milliseconds", "1": "_ratio", "/s": "_per_second"}
ANNOTATION = re.compile(r"\{[^}]*\}")
"""What a unit counts, which says nothing of how much it is."""


class Receiver(metrics_service_pb2_grpc.MetricsServiceServicer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.spans: list[tuple[Span, dict[str, str]]] = []
        """Each with the attributes of who sent it."""
        self.metrics: dict[str, dict[str, Metric]] = {}
        """The newest of each name, by service."""
        self.address = ""

    def of(self, trace: str) -> set[str]:
        """The ids of a trace's spans."""
        return {span.span_id.hex() for span, _ in list(self.spans) if span.trace_id.hex() == trace}

    def figures(self) -> set[str]:
        """Every figure as Prometheus names it. Source: opentelemetry.io/docs/specs/otel/compatibility/prometheus."""
        return {
            figure
            for metrics in list(self.metrics.values())
            for metric in list(metrics.values())
            for figure in _prometheus(metric)
        }

    def Export(self, request: Any, context: Any) -> Any:
        for resource in request.resource_metrics:
            service = _text(resource.resource.attributes)["service.name"]
            for scope in resource.scope_metrics:
                self.metrics.setdefault(service, {}).update({metric.name: metric for metric in scope.metrics})
        return metrics_service_pb2.ExportMetricsServiceResponse()


class _Traces(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def Export(self, request: Any, context: Any) -> Any:
        for resource in request.resource_spans:
            about = _text(resource.resource.attributes)
            self._receiver.spans.extend(
                (span, about) for scope in resource.scope_spans for span in scope.spans
            )
        return trace_service_pb2.ExportTraceServiceResponse()


@contextmanager
def receiving(address: str = "127.0.0.1:0") -> Iterator[Receiver]:
    receiver = Receiver()
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    add_metrics: Any = metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server
    add_traces: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    add_metrics(receiver, server)
    add_traces(_Traces(receiver), server)
    receiver.address = f"127.0.0.1:{server.add_insecure_port(address)}"
    server.start()
    try:
        yield receiver
    finally:
        server.stop(None).wait()


def _text(pairs: Iterable[KeyValue]) -> dict[str, str]:
    return {pair.key: pair.value.string_value for pair in pairs}


def _name(metric: Metric) -> str:
    return metric.name.replace(".", "_") + UNITS.get(ANNOTATION.sub("", metric.unit), "")


def _prometheus(metric: Metric) -> set[str]:
    name = _name(metric)
    return {f"{name}_bucket", f"{name}_count", f"{name}_sum"} if metric.HasField("histogram") else {name}


def prometheus_lines(service: str, metric: Metric) -> Iterator[str]:
    """A figure as Prometheus reads it, as the collector writes it: `job` is the service."""

    def line(name: str, labels: Mapping[str, str], value: float) -> str:
        inner = ",".join(f'{key.replace(".", "_")}="{text}"' for key, text in labels.items())
        return f"{name}{{{inner}}} {value}"

    base = _name(metric)
    for point in metric.histogram.data_points:
        labels = {"job": service, **_text(point.attributes)}
        so_far = 0
        for bound, count in zip([*point.explicit_bounds, float("inf")], point.bucket_counts, strict=True):
            so_far += count
            le = "+Inf" if bound == float("inf") else str(bound)
            yield line(f"{base}_bucket", labels | {"le": le}, so_far)
        yield line(f"{base}_sum", labels, point.sum)
        yield line(f"{base}_count", labels, point.count)
    for number in (*metric.gauge.data_points, *metric.sum.data_points):
        value = number.as_int if number.HasField("as_int") else number.as_double
        yield line(base, {"job": service, **_text(number.attributes)}, value)
