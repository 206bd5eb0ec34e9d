"""Steps of transforms on a Ray cluster that the operator attached (AIOS_RAY_ADDRESS).

The cluster is trusted as a node of the pool is: it sees the rows, and what it answers is taken for the result. Each of
its nodes has the same `aios-platform[worker,ray]` as this one; what differs is refused and not worked with.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Any

from aios.errors import AiosError, FailedPrecondition
from services.data.job import code
from services.data.job.engine import PIECE_BYTES, Done, call

AHEAD = 2  # pieces for each processor of the cluster: one that is worked on, one that is on its way

PATIENCE_SECONDS = (
    30  # of each of Ray's three tries to connect: it starts a process for each client, on a busy machine
)


class RayNotReady(FailedPrecondition):
    """The Ray cluster that is attached cannot do this transform, and the message says why."""

    reason = "RAY_NOT_READY"


class Ray:
    """Connected until `close`.

    Args:
        address: `ray://host:port` of the cluster's client server.
        token: The cluster's; empty where it has none.

    Raises:
        RayNotReady: Ray is not installed here, or the cluster cannot be reached.
    """

    piece_bytes = PIECE_BYTES

    def __init__(self, address: str, token: str = "") -> None:
        if token:
            # Ray reads them when it is imported for the first time, from the environment alone.
            os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        os.environ.setdefault("RAY_CLIENT_INITIAL_CONNECTION_TIMEOUT_S", str(PATIENCE_SECONDS))
        try:
            self._ray: Any = import_module("ray")
        except ModuleNotFoundError:
            raise RayNotReady(
                "AIOS_RAY_ADDRESS is set and Ray is not installed on this node: pip install 'aios-platform[ray]'."
            ) from None
        try:
            self._ray.init(address, log_to_driver=False, logging_level="WARNING")
        except (ConnectionError, RuntimeError, ValueError) as error:
            # Connecting refuses another Ray or Python too.
            raise RayNotReady(f"The Ray cluster at {address} cannot be used: {error}") from error
        # Pickled as its name, since a module has it: no code of ours is sent.
        self._task = self._ray.remote(work)
        self._window = AHEAD * max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def run(self, step: str, given: str, pieces: Iterable[bytes]) -> Iterator[Done]:
        shared = self._ray.put(given)
        under_way: deque[Any] = deque()
        for piece in pieces:
            under_way.append(self._task.remote(code.build(), step, shared, piece))
            if len(under_way) >= self._window:
                yield self._answer(under_way.popleft())
        while under_way:
            yield self._answer(under_way.popleft())

    def close(self) -> None:
        self._ray.shutdown()

    def _answer(self, reference: Any) -> Done:
        try:
            done: Done = self._ray.get(reference)
        except AiosError as error:
            raise getattr(error, "cause", error) from None
        except self._ray.exceptions.RayError as error:
            raise RayNotReady(f"A piece was not done on the Ray cluster: {error}") from error
        return done


def work(build: str, step: str, given: str, piece: bytes) -> Done:
    """On the cluster: what `call` makes, by the same code as the job has.

    Raises:
        RayNotReady: it is another one.
    """
    if build != (mine := code.build()):
        raise RayNotReady(f"The job has {build}; a node of the Ray cluster has {mine}: install the same.")
    return call(step, given, piece)
