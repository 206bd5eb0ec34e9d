"""The part of an OpenTelemetry Collector that our configuration of it uses: OTLP in, figures for Prometheus out. The ids of
traces go to its log."""

import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from collector import Receiver, prometheus_lines, receiving  # type: ignore[import-not-found]  # beside it


def main() -> None:
    """Serve until killed."""
    with receiving("0.0.0.0:4317") as receiver:
        Thread(target=_log_traces, args=(receiver,), daemon=True).start()

        class Figures(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = "".join(f"{line}\n" for line in _lines(receiver)).encode()
                self.send_response(200)
                self.send_header("content-type", "text/plain; version=0.0.4")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
                pass

        ThreadingHTTPServer(("0.0.0.0", 8889), Figures).serve_forever()


def _lines(receiver: Receiver) -> Iterator[str]:
    for service, metrics in list(receiver.metrics.items()):
        for metric in list(metrics.values()):
            yield from prometheus_lines(service, metric)


def _log_traces(receiver: Receiver) -> None:
    told = 0
    while True:
        spans = receiver.spans
        for span, _ in spans[told:]:
            print(span.trace_id.hex(), flush=True)
        told = len(spans)
        time.sleep(0.5)


main()
