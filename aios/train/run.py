"""One attempt of a run, as a training script sees it: synchronous, with the network in a thread of its own."""

import asyncio
import contextvars
import os
import queue
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from urllib.parse import urlsplit

from google.protobuf.json_format import MessageToDict

from aios.common.v1 import tensor_pb2
from aios.config import Settings
from aios.errors import AiosError, FailedPrecondition
from aios.runtime import telemetry
from aios.runtime.tokens import token_file
from aios.train.platform import Platform
from aios.trainer.v1 import run_pb2

REPORT_SECONDS = 0.25  # metrics reach a watcher within about half a second
POINTS_PER_REPORT = 500  # then the next one; well below the 1,000 that the trainer takes in one request
POINTS_WAITING_MAX = 100_000  # about 20 MB; beyond it `report` waits for the network
GIVE_UP_SECONDS = 120.0  # how long reports are kept while the trainer is away
EXIT_STOPPED = 128 + signal.SIGTERM  # what a process that SIGTERM ended exits with

T = TypeVar("T")


class Stopped(SystemExit):
    """Raised by `leave`: the run was asked to stop and its state is saved."""


@dataclass(frozen=True)
class Checkpoint:
    """What to go on from: the files that `save` was given."""

    step: int
    folder: Path


@contextmanager
def init() -> Iterator["Run"]:
    """Join the run that this job was started for, and leave it in good order.

    Raises:
        FailedPrecondition: not inside a job of the platform.
    """
    settings = Settings.load()
    job, epoch = os.environ.get("AIOS_JOB"), os.environ.get("AIOS_EPOCH")
    if not job or not epoch or settings.token_file is None:
        raise FailedPrecondition(
            "This is no job of the platform: start it with `aios run submit`.", reason="NO_JOB"
        )
    token = token_file(settings.token_file)
    if settings.telemetry:
        telemetry.setup("trainer.job", settings.otlp_endpoint or urlsplit(settings.address).netloc, token)
    scratch = Path(os.environ.get("AIOS_SCRATCH") or tempfile.mkdtemp(prefix="aios-"))
    with telemetry.span("training process", traceparent=os.environ.get("TRACEPARENT")), _Network() as network:
        platform = network.call(_opened(settings.address, token, job, int(epoch)))
        try:
            run = Run(network, platform, scratch)
            signal.signal(signal.SIGTERM, lambda *_: run.stop())
            with run:
                yield run
        finally:
            network.call(platform.close())
    telemetry.shutdown()


class Run:
    """The run that this process trains. Made by `init`."""

    def __init__(self, network: "_Network", platform: Platform, scratch: Path) -> None:
        self._network = network
        self._platform = platform
        self._scratch = scratch
        self._stop = threading.Event()
        self._progress = run_pb2.Progress()
        self._spec = network.call(platform.get()).spec
        self._reporter = _Reporter(network, platform, self._stop)

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self._reporter.close()

    @property
    def name(self) -> str:
        """`projects/{project}/runs/{run}`."""
        return self._platform.run

    @property
    def recipe(self) -> str:
        """The recipe that was asked for."""
        return self._spec.recipe

    @property
    def hparams(self) -> Mapping[str, Any]:
        """Hyperparameters. JSON has one number type: whole numbers come back as int."""
        given = MessageToDict(self._spec.hyperparameters)
        return {
            key: int(value) if isinstance(value, float) and value.is_integer() else value
            for key, value in given.items()
        }

    @property
    def seed(self) -> int:
        """Seed of everything random."""
        return self._spec.seed

    @property
    def checkpoint_steps(self) -> int:
        """Steps between checkpoints; 0 leaves it to the script."""
        return self._spec.checkpoint_steps

    def dataset(self) -> Path:
        """The folder with the run's dataset version, every file checked."""
        folder = self._scratch / "dataset"
        if not folder.exists():
            project = self.name.rpartition("/runs/")[0]
            self._network.call(self._platform.download(f"{project}/{self._spec.dataset}", folder))
        return folder

    def restore(self) -> Checkpoint | None:
        """Take the run over, from its newest checkpoint where there is one. Call once, before the first step."""
        found = self._network.call(self._platform.newest_checkpoint())
        self._network.call(self._platform.begin(found.step if found else 0))
        if found is None:
            return None
        folder = self.folder("restored")
        self._network.call(self._platform.download(found.name, folder))
        return Checkpoint(found.step, folder)

    def save(self, step: int, folder: Path) -> None:
        """Store a folder as the checkpoint of `step`. Returns once it is durable and can be restored."""
        self._reporter.flush()  # what was measured before the checkpoint is not measured again
        with telemetry.span("save checkpoint", attributes={"aios.step": step}):
            self._network.call(self._platform.save_checkpoint(step, folder))

    def report(self, step: int, **metrics: float) -> None:
        """Send metrics of a step, in the background.

        Raises:
            StaleEpoch: a newer attempt has taken the run over; let it end the process.
        """
        self._progress.step = step
        self._reporter.put(step, metrics, self._progress)

    def progress(self, phase: str, total_steps: int = 0) -> None:
        """Say what the process is at, and how many steps there will be."""
        self._progress.phase = phase
        self._progress.total_steps = total_steps or self._progress.total_steps
        self._reporter.put(self._progress.step, {}, self._progress)

    @contextmanager
    def phase(self, name: str, total_steps: int = 0) -> Iterator[None]:
        """A part of the work with a name: in the progress and in the trace."""
        self.progress(name, total_steps)
        with telemetry.span(name):
            yield

    def should_stop(self) -> bool:
        """Whether to save and leave: the run was cancelled, or its place is needed."""
        return self._stop.is_set()

    def stop(self) -> None:
        """What SIGTERM does: `should_stop` says true from now on."""
        self._stop.set()

    def leave(self) -> NoReturn:
        """End the process after a stop, once its state is saved."""
        self._reporter.flush()
        raise Stopped(EXIT_STOPPED)

    def complete(
        self,
        folder: Path | None = None,
        signature: tensor_pb2.Signature | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> str:
        """Hand over the result: a folder with the model's files, what it takes and gives, its final metrics.

        Returns:
            The registered model version's name; empty where the run registers none.
        """
        self._reporter.flush()
        with telemetry.span("register model"):
            output = None
            if folder is not None:
                files = self._network.call(self._platform.upload(folder))
                output = run_pb2.ModelOutput(files=files, signature=signature, metrics=metrics or {})
            return self._network.call(self._platform.complete(output)).model_version

    def folder(self, name: str) -> Path:
        """A fresh folder of this attempt's own."""
        folder = self._scratch / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder


class _Reporter:
    """Sends metrics in the background, in order, and remembers why it no longer can."""

    def __init__(self, network: "_Network", platform: Platform, stop: threading.Event) -> None:
        self._network = network
        self._platform = platform
        self._stop = stop
        self._waiting: queue.Queue[tuple[list[run_pb2.MetricPoint], run_pb2.Progress] | None] = queue.Queue(
            POINTS_WAITING_MAX
        )
        self._failure: AiosError | None = None
        self._thread = threading.Thread(target=self._send_all, name="aios-metrics", daemon=True)
        self._thread.start()

    def put(self, step: int, metrics: Mapping[str, float], progress: run_pb2.Progress) -> None:
        """Queue one step's metrics."""
        if self._failure is not None:
            raise self._failure
        points = []
        for key, value in metrics.items():
            point = run_pb2.MetricPoint(key=key, value=float(value), step=step)
            point.time.GetCurrentTime()
            points.append(point)
        snapshot = run_pb2.Progress()
        snapshot.CopyFrom(progress)
        self._waiting.put((points, snapshot))

    def flush(self) -> None:
        """Wait until everything queued has arrived."""
        self._waiting.join()
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Send what is left, and end."""
        self._waiting.put(None)
        self._thread.join()

    def _send_all(self) -> None:
        open_ = True
        while open_:
            batch = [self._waiting.get()]
            time.sleep(REPORT_SECONDS)
            while sum(len(each[0]) for each in batch if each) < POINTS_PER_REPORT:
                try:
                    batch.append(self._waiting.get_nowait())
                except queue.Empty:
                    break
            open_ = None not in batch
            sent = [each for each in batch if each is not None]
            if sent and self._failure is None:
                self._send([point for points, _ in sent for point in points], sent[-1][1])
            for _ in batch:
                self._waiting.task_done()

    def _send(self, points: list[run_pb2.MetricPoint], progress: run_pb2.Progress) -> None:
        deadline = time.monotonic() + GIVE_UP_SECONDS
        while True:
            try:
                if self._network.call(self._platform.report(points, progress)):
                    self._stop.set()
                return
            except AiosError as error:
                passing = error.code.name in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")
                if not passing or time.monotonic() > deadline:
                    self._failure = error
                    print(f"metrics can no longer be sent: {error.message}", file=sys.stderr)
                    return
                time.sleep(1.0)


class _Network:
    """An event loop in a thread, for code that has none."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="aios-network", daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself holds them only weakly

    def __enter__(self) -> "_Network":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
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


async def _opened(address: str, token: Any, job: str, epoch: int) -> Platform:
    return Platform(address, token, job, epoch)
