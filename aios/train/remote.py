"""A run on the platform: synchronous calls, with the network in a thread of its own."""

import asyncio
import contextvars
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from aios.common.v1 import tensor_pb2
from aios.data.v1 import model_pb2
from aios.errors import AiosError, Internal, InvalidArgument
from aios.runtime.token_files import TokenSource
from aios.train.home import Checkpoint
from aios.train.pace import Pace
from aios.train.platform import Platform
from aios.trainer.v1 import run_pb2

REPORT_SECONDS = 0.25  # metrics reach a watcher within about half a second
REPORTS_PER_SEND = 500  # then without waiting for more
POINTS_PER_REPORT = 500  # in one request; well below the 1,000 that the trainer takes
REPORTS_WAITING_MAX = 100_000  # about 30 MB; beyond it `report` waits for the network
GIVE_UP_SECONDS = 120.0  # how long reports are kept while the trainer is away
RESTORED = "AIOS_RESTORED_CHECKPOINT"
"""Set for a command whose AIOS_CHECKPOINT_DIR holds this checkpoint already."""

T = TypeVar("T")


class Remote:
    """The run of this job.

    Args:
        stop: Called when the platform asks the run to stop.
    """

    def __init__(
        self, address: str, token: TokenSource, job: str, epoch: int, scratch: Path, stop: Callable[[], None]
    ) -> None:
        self.scratch = scratch
        self._network = _Network()
        try:
            self._platform = self._network.call(_opened(address, token, job, epoch))
            self.name = self._platform.run
            self.spec = self._network.call(self._platform.get()).spec
        except BaseException:
            self._network.close()
            raise
        self._pace = Pace()
        self._reporter = _Reporter(self._network, self._platform, stop, self._pace)

    def dataset(self, name: str, folder: Path) -> Path:
        """Fetched once by whichever process of the job asks first."""
        named = {"dir": self.spec.dataset, "code": self.spec.code, **self.spec.datasets}
        if not named.get(name):
            have = ", ".join(sorted(key for key, version in named.items() if version)) or "none"
            raise InvalidArgument.of("dataset", f"the run reads no dataset {name!r}; it has {have}")
        if not folder.exists():
            partial = folder.with_name(f".{folder.name}")
            project = self.name.rpartition("/runs/")[0]
            self._network.call(self._platform.download(f"{project}/{named[name]}", partial))
            partial.rename(folder)
        return folder

    def base_model(self, folder: Path) -> tuple[Path, tensor_pb2.Signature]:
        """Fetched once."""
        name = f"{self.name.rpartition('/runs/')[0]}/{self.spec.base_model}"
        version = self._network.call(self._platform.model_version(name))
        self._network.call(self._platform.download(name, folder))
        return folder, version.signature

    def restore(self) -> Checkpoint | None:
        """From the newest checkpoint; the platform forgets what was measured after it."""
        found = self._network.call(self._platform.newest_checkpoint())
        self._network.call(self._platform.begin(found.step if found else 0))
        if found is not None:
            self._pace.restored(found.step)
        return self._fetched(found)

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint, without taking the run over."""
        return self._fetched(self._network.call(self._platform.newest_checkpoint()))

    def _fetched(self, found: model_pb2.Checkpoint | None) -> Checkpoint | None:
        if found is None:
            return None
        if os.environ.get(RESTORED) == found.name:
            return Checkpoint(found.step, Path(os.environ["AIOS_CHECKPOINT_DIR"]), found.name)
        folder = self.scratch / "restored"
        self._network.call(self._platform.download(found.name, folder))
        return Checkpoint(found.step, folder, found.name)

    def save(self, step: int, folder: Path) -> None:
        """Upload, then make visible."""
        self._network.call(self._platform.save_checkpoint(step, folder))
        self._pace.saved_step = step

    def put(self, step: int, metrics: Mapping[str, float], progress: run_pb2.Progress) -> None:
        """Queued; sent a few times a second."""
        self._reporter.put(step, metrics, progress)

    def minds_stops(self) -> None:
        """The scheduler may stop it for others at little cost."""
        self._pace.minds_stops = True

    def flush(self) -> None:
        """Until the queue is empty."""
        self._reporter.flush()

    def complete(
        self,
        model: Path | None,
        signature: tensor_pb2.Signature | None,
        metrics: Mapping[str, float],
        outputs: Path | None,
        card: str = "",
        rejected: str = "",
    ) -> str:
        """Upload and register. A model that is not to be registered is kept among the outputs."""
        output, others = None, {} if outputs is None else _files(outputs)
        if model is not None and self.spec.model:
            files = self._network.call(self._platform.upload(_files(model)))
            output = run_pb2.ModelOutput(
                files=files, signature=signature, metrics=metrics, card=card, rejected=rejected
            )
        elif model is not None:
            others |= {f"model/{name}": path for name, path in _files(model).items()}
        kept = self._network.call(self._platform.upload(others)) if others else []
        return self._network.call(self._platform.complete(output, kept)).model_version

    def close(self) -> None:
        """Send what is left, then hang up."""
        self._reporter.close()
        self._network.call(self._platform.close())
        self._network.close()


class _Reporter:
    """Sends metrics in the background, in order, and remembers why it no longer can."""

    def __init__(self, network: "_Network", platform: Platform, stop: Callable[[], None], pace: Pace) -> None:
        self._network = network
        self._platform = platform
        self._stop = stop
        self._pace = pace
        self._latest = run_pb2.Progress()
        self._waiting: deque[tuple[int, Mapping[str, float], int, run_pb2.Progress]] = deque()
        self._put = self._done = 0  # how many were queued, and how many of them have arrived
        self._arrived = threading.Condition()
        self._hurry = threading.Event()
        self._closing = False
        self._failure: AiosError | None = None
        self._thread = threading.Thread(target=self._send_all, name="aios-metrics", daemon=True)
        self._thread.start()

    def put(self, step: int, metrics: Mapping[str, float], progress: run_pb2.Progress) -> None:
        """Queue one step's metrics. What can be left to the thread is: this is on the training loop's time."""
        if self._failure is not None:
            raise self._failure
        if len(self._waiting) > REPORTS_WAITING_MAX:
            self.flush()
        self._waiting.append((step, metrics, time.time_ns(), progress))
        self._put += 1

    def flush(self) -> None:
        """Wait until everything queued has arrived."""
        until = self._put
        self._hurry.set()
        with self._arrived:
            while not self._arrived.wait_for(lambda: self._done >= until, timeout=1.0):
                if not self._thread.is_alive():
                    raise Internal("metrics can no longer be sent: see the log")
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Send what is left, and end."""
        self._closing = True
        self._hurry.set()
        self._thread.join()

    def _send_all(self) -> None:
        open_ = True
        while open_:
            if len(self._waiting) < REPORTS_PER_SEND:
                self._hurry.wait(REPORT_SECONDS)
            if not self._waiting:
                self._hurry.clear()
            closing = self._closing  # looked at before the queue: what was put before `close` is sent
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), REPORTS_PER_SEND))]
            open_ = not closing or bool(self._waiting)
            if batch and self._failure is None:
                latest = run_pb2.Progress()
                latest.CopyFrom(batch[-1][3])
                for points in _pieces(batch):
                    self._send(points, latest)
                self._latest = latest
            if self._latest.step and self._failure is None:
                self._tell(self._latest, last=not open_)
            with self._arrived:
                self._done += len(batch)
                self._arrived.notify_all()

    def _tell(self, progress: run_pb2.Progress, *, last: bool) -> None:
        """Say to the scheduler how far the job is, now and then."""
        now = time.monotonic()
        if last or self._pace.due(now):
            # What does not arrive is said again in a few seconds; that an attempt is stale, its metrics are told.
            with suppress(AiosError):
                told = self._pace.at(progress.step, progress.total_steps, now)
                self._network.call(self._platform.tell(told))

    def _send(self, points: list[run_pb2.MetricPoint], progress: run_pb2.Progress) -> None:
        deadline = time.monotonic() + GIVE_UP_SECONDS
        while True:
            try:
                if self._network.call(self._platform.report(points, progress)):
                    self._stop()
                return
            except AiosError as error:
                passing = error.code.name in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")
                if not passing or time.monotonic() > deadline:
                    self._failure = error
                    print(f"metrics can no longer be sent: {error.message}", file=sys.stderr)
                    return
                time.sleep(1.0)


def _files(folder: Path) -> dict[str, Path]:
    return {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}


def _pieces(
    batch: Sequence[tuple[int, Mapping[str, float], int, run_pb2.Progress]],
) -> Iterator[list[run_pb2.MetricPoint]]:
    """The points of some steps, as many at a time as one request takes; one empty piece where there are none."""
    points = []
    for step, metrics, nanos, _ in batch:
        moment = Timestamp(seconds=nanos // 10**9, nanos=nanos % 10**9)
        for key, value in metrics.items():
            points.append(run_pb2.MetricPoint(key=key, value=value, step=step, time=moment))
    for start in range(0, len(points) or 1, POINTS_PER_REPORT):
        yield points[start : start + POINTS_PER_REPORT]


class _Network:
    """An event loop in a thread, for code that has none."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="aios-network", daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself holds them only weakly
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there, in the caller's context (so that it continues the caller's trace), and wait."""
        done: Future[T] = Future()
        context = contextvars.copy_context()

        async def run() -> None:
            try:
                done.set_result(await work)
            except BaseException as error:  # noqa: BLE001 - raised again by the caller
                done.set_exception(error)

        def start() -> None:
            task = self._loop.create_task(run(), context=context)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        self._loop.call_soon_threadsafe(start)
        return done.result()


async def _opened(address: str, token: TokenSource, job: str, epoch: int) -> Platform:
    return Platform(address, token, job, epoch)
