"""Where a device's own programs ask its model: HTTP on this machine."""

import json
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aios.edge import run
from aios.edge.figures import Counter
from aios.edge.shelf import Running

BODY_BYTES_MAX = 4 * 1024 * 1024
IDLE_SECONDS = 30.0


class Door(ThreadingHTTPServer):
    """`POST /predict` with instances; `GET /health` says which version answers."""

    daemon_threads = True

    def __init__(
        self, address: tuple[str, int], running: Callable[[], Running | None], counter: Counter
    ) -> None:
        super().__init__(address, _Handler)
        self.running = running
        self.counter = counter

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, name="door", daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    server: Door
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS

    def do_GET(self) -> None:
        running = self.server.running()
        if self.path != "/health":
            self._say(HTTPStatus.NOT_FOUND, {"error": "there are GET /health and POST /predict"})
        elif running is None:
            self._say(HTTPStatus.SERVICE_UNAVAILABLE, {"error": "no model yet"})
        else:
            self._say(HTTPStatus.OK, {"model_version": running.version})

    def do_POST(self) -> None:
        length = self.headers.get("content-length", "")
        if not length.isdecimal() or int(length) > BODY_BYTES_MAX:
            self.close_connection = True
            self._say(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": f"send {BODY_BYTES_MAX} bytes at most"})
            return
        body = self.rfile.read(int(length))
        running = self.server.running()
        if self.path != "/predict":
            self._say(HTTPStatus.NOT_FOUND, {"error": "there are GET /health and POST /predict"})
        elif running is None:
            self._say(HTTPStatus.SERVICE_UNAVAILABLE, {"error": "no model yet"})
        else:
            self._say(*self._answer(running, body))

    def _answer(self, running: Running, body: bytes) -> tuple[HTTPStatus, dict[str, Any]]:
        began = time.monotonic()
        predictions, failed = 0, False
        try:
            answer = running.ask(json.loads(body))
            predictions = len(answer["predictions"])
            return HTTPStatus.OK, answer
        except (run.WrongInput, ValueError, RecursionError) as error:
            return HTTPStatus.BAD_REQUEST, {"error": str(error)}
        except Exception as error:  # noqa: BLE001  # whatever the runtime raises
            failed = True
            return HTTPStatus.INTERNAL_SERVER_ERROR, {"error": str(error)}
        finally:
            self.server.counter.add(running.version, predictions, time.monotonic() - began, failed)

    def _say(self, status: HTTPStatus, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Nothing: a line for each request would wear out a small device's disk."""
