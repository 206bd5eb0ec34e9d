"""Clients that predict without a pause while something happens."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException

from tests.e2e.stack import READY_SECONDS, Stack, eventually

PAUSE_SECONDS = 0.05
"""Between two predictions of one client: a steady load that leaves the machine to what is tested."""
REPLY_SECONDS = 10.0


@dataclass(frozen=True)
class Answer:
    """What one prediction got."""

    door: str
    at: float
    """When it was asked, on the monotonic clock."""
    revision: str = ""
    """Which revision answered; over HTTP alone."""
    logit: float = 0.0
    error: str = ""


@dataclass
class Steady:
    """What the clients have seen so far."""

    answers: list[Answer] = field(default_factory=list)

    @property
    def failures(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.error]

    def count(self, since: float = 0.0) -> dict[str, int]:
        """Right answers to what was asked after `since`, by door."""
        doors = [answer.door for answer in self.answers if not answer.error and answer.at >= since]
        return {door: doors.count(door) for door in ("http", "grpc")}

    def wait(self, since: float, more: int = 3, seconds: float = READY_SECONDS) -> None:
        """Return once each door has answered `more` predictions asked after `since`."""
        eventually(
            lambda: min(self.count(since).values()) >= more, f"{more} predictions at each door", seconds
        )


@contextmanager
def steady(aios: Stack, deployment: str, image: Any) -> Iterator[Steady]:
    """Predict one image over HTTP and over gRPC, again and again, until the block ends."""
    seen, stop = Steady(), threading.Event()
    address, target, headers = aios.address, aios.target, aios.bearer()
    body = {
        "inputs": [
            {"name": "image", "shape": image.shape, "datatype": "FP32", "data": image.ravel().tolist()}
        ]
    }

    def over_http(http: httpx.Client) -> Answer:
        began = time.monotonic()
        try:
            reply = http.post(f"{address}/v2/models/{deployment}/infer", json=body, headers=headers)
        except httpx.HTTPError as error:
            return Answer("http", began, error=repr(error))
        if reply.status_code != 200:
            return Answer("http", began, error=f"{reply.status_code} {reply.text}")
        logits = reply.json()["outputs"][0]["data"]
        return Answer("http", began, reply.headers["x-aios-revision"], logits[0])

    def over_grpc(server: triton_grpc.InferenceServerClient, tensor: triton_grpc.InferInput) -> Answer:
        began = time.monotonic()
        try:
            reply = server.infer(deployment, [tensor], headers=headers, client_timeout=REPLY_SECONDS)
        except InferenceServerException as error:
            return Answer("grpc", began, error=str(error))
        return Answer("grpc", began, logit=float(reply.as_numpy("logits")[0][0]))

    def repeat(ask: Callable[[], Answer]) -> None:
        while not stop.wait(PAUSE_SECONDS):
            seen.answers.append(ask())

    with (
        httpx.Client(trust_env=False, timeout=REPLY_SECONDS) as http,
        triton_grpc.InferenceServerClient(target) as server,
    ):
        tensor = triton_grpc.InferInput("image", list(image.shape), "FP32")
        tensor.set_data_from_numpy(np.asarray(image))
        clients = [
            threading.Thread(target=repeat, args=(lambda: over_http(http),)),
            threading.Thread(target=repeat, args=(lambda: over_grpc(server, tensor),)),
        ]
        for client in clients:
            client.start()
        try:
            yield seen
        finally:
            stop.set()
            for client in clients:
                client.join()
