"""The unix socket of a language model's process."""

import json
import os
import queue
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from services.inference.replica.lm.embed import Embedder
from services.inference.replica.lm.engine import Engine, Piece
from services.inference.replica.lm.load import CAUSAL, load
from services.inference.replica.lm.requests import WrongRequest, read

Say = Callable[[Mapping[str, Any]], None]


def serve(kind: str, directory: Path, address: Path) -> None:
    """Load, listen, and answer one client after another, until the process is ended."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    model, tokenizer = load(kind, directory)
    answer: Callable[[socket.socket], None]
    if kind == CAUSAL:
        engine = Engine(model, tokenizer)
        engine.start()
        answer = lambda client: _Generating(engine, client).run()  # noqa: E731
    else:
        embedder = Embedder(model, tokenizer)
        embedder.embed(["warm"])
        answer = lambda client: _embedding(embedder, client)  # noqa: E731
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(address))
        address.chmod(0o600)
        listening.listen()
        while True:
            client, _ = listening.accept()
            threading.Thread(target=answer, args=(client,), daemon=True).start()


class _Generating:
    """One connection's requests under way."""

    def __init__(self, engine: Engine, client: socket.socket) -> None:
        self._engine, self._client = engine, client
        self._out: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
        self._cancels: dict[int, Callable[[], None]] = {}

    def run(self) -> None:
        threading.Thread(target=self._write, daemon=True).start()
        try:
            for line in self._client.makefile("rb"):
                self._take(json.loads(line))
        except OSError:
            pass
        finally:
            for cancel in list(self._cancels.values()):
                cancel()
            self._out.put(None)

    def _take(self, asked: Mapping[str, Any]) -> None:
        number = asked["id"]
        if asked.get("cancel"):
            if cancel := self._cancels.pop(number, None):
                cancel()
            return
        try:
            ask = read(asked["prompt"], asked["parameters"])
            if ask.sampling.max_tokens == 0:  # nothing but whether the model is well
                self._tell(
                    number,
                    Piece(
                        "",
                        "length" if self._engine.well else "error",
                        error="" if self._engine.well else "the model hangs",
                    ),
                )
                return
            self._cancels[number] = self._engine.submit(ask, lambda piece: self._tell(number, piece))
        except WrongRequest as error:
            self._out.put({"id": number, "error": str(error), "wrong": True})

    def _tell(self, number: int, piece: Piece) -> None:
        if piece.finish:
            self._cancels.pop(number, None)
        if piece.error:
            self._out.put({"id": number, "error": piece.error, "wrong": False})
            return
        self._out.put(
            {
                "id": number,
                "text": piece.text,
                "finish": piece.finish,
                "prompt_tokens": piece.prompt_tokens,
                "completion_tokens": piece.completion_tokens,
            }
        )

    def _write(self) -> None:
        while (said := self._out.get()) is not None:
            try:
                self._client.sendall(json.dumps(said).encode() + b"\n")
            except OSError:
                return


def _embedding(embedder: Embedder, client: socket.socket) -> None:
    for line in client.makefile("rb"):
        asked = json.loads(line)
        vectors, tokens = embedder.embed(asked["texts"])
        said = {"id": asked["id"], "vectors": vectors, "tokens": tokens}
        client.sendall(json.dumps(said).encode() + b"\n")
