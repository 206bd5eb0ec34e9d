"""One attempt of a run, as a training script sees it."""

import json
import math
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from google.protobuf.json_format import MessageToDict

from aios.common.v1 import tensor_pb2
from aios.config import Settings
from aios.errors import FailedPrecondition, InvalidArgument
from aios.names import JobName, RunName
from aios.runtime import telemetry
from aios.runtime.token_files import token_file
from aios.train.devices import keep_to_share
from aios.train.home import Checkpoint, Home
from aios.train.local import Local
from aios.train.ranks import ALONE, Beats, Follower, Ranks, spec_told
from aios.train.remote import RESTORED, Remote
from aios.trainer.v1 import run_pb2

if TYPE_CHECKING:
    from aios.train.data import Records

EXIT_STOPPED = 128 + signal.SIGTERM  # what a process that SIGTERM ended exits with
LOCAL_FOLDER = Path("aios-run")
_KEY = re.compile(r"[\w./@ -]{1,250}")
_DATA = "AIOS_DATA_"


class Stopped(SystemExit):
    """Raised by `leave`: the run was asked to stop and its state is saved."""


@contextmanager
def init(
    hparams: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    folder: Path | None = None,
    data: str | Path | Mapping[str, str | Path] | None = None,
) -> Iterator["Run"]:
    """Join the run that this process was started for; without a platform, make one in a folder.

    Args:
        hparams: What the script uses where nobody says otherwise: run.yaml, or AIOS_HPARAMS as JSON.
        seed: The same for the seed, where there is no platform.
        folder: Where a run without a platform lives; `aios-run` here.
        data: Its dataset's folder or file there, or those of several by name, where AIOS_DATA_DIR and its like say
            nothing.
    """
    here = _datasets_here(data)
    job, epoch = os.environ.get("AIOS_JOB"), os.environ.get("AIOS_EPOCH")
    stop = threading.Event()
    ranks = Ranks.of_environment()
    home: Home
    with _traced() if job and ranks.rank == 0 else _untraced():
        if ranks.rank > 0:
            home = _follower(folder or LOCAL_FOLDER, seed, here)
        elif job and epoch:
            home = _remote(job, int(epoch), stop)
        else:
            home = Local(folder or LOCAL_FOLDER, _spec_of_environment(seed), here)
        keep_to_share()
        before = signal.signal(signal.SIGTERM, lambda *_: stop.set())
        beats = Beats.of_environment(ranks.rank)
        try:
            yield Run(home, stop, hparams or {}, ranks, beats)
        finally:
            if beats is not None:
                beats.close()
            home.close()
            signal.signal(signal.SIGTERM, before)


class Run:
    """The run that this process trains. Made by `init`."""

    def __init__(
        self,
        home: Home,
        stop: threading.Event,
        hparams: Mapping[str, Any],
        ranks: Ranks = ALONE,
        beats: Beats | None = None,
    ) -> None:
        self._home = home
        self._ranks = ranks
        self._beats = beats
        self._stop = stop
        self._defaults = hparams
        self._progress = run_pb2.Progress()
        self._newest: dict[str, float] = {}
        self._known: set[str] = set()
        self._warned: set[str] = set()

    @property
    def name(self) -> str:
        """`projects/{project}/runs/{run}`; the folder's path without a platform."""
        return self._home.name

    @property
    def spec(self) -> run_pb2.RunSpec:
        """All that was asked for."""
        return self._home.spec

    @cached_property
    def hparams(self) -> Mapping[str, Any]:
        """Hyperparameters. JSON has one number type: whole numbers come back as int."""
        return {**self._defaults, **_whole(MessageToDict(self._home.spec.hyperparameters))}

    @property
    def seed(self) -> int:
        """Seed of everything random."""
        return self._home.spec.seed

    @property
    def rank(self) -> int:
        """Which of the processes that train the run together this is. The first one, 0, speaks for all."""
        return self._ranks.rank

    @property
    def world(self) -> int:
        """How many they are."""
        return self._ranks.world

    @property
    def checkpoint_steps(self) -> int:
        """Steps between checkpoints; 0 leaves it to the script."""
        return self._home.spec.checkpoint_steps

    def files(self, name: str = "") -> Path:
        """The folder with the run's dataset version, or with that of one of its further datasets, every file checked."""
        return self._home.dataset(name or "dir", self._home.scratch / "data" / (name or "dir"))

    def dataset(self, split: str = "", *, name: str = "", shuffle: bool = True) -> "Records":
        """The records of a part of the run's dataset version, such as `train`, in the order of the run's seed.

            records = run.dataset("train")
            for batch in records.loader(batch_size=256, rank=run.rank, world=run.world): ...

        Keep `records.state()` in the checkpoint, and give it back to `records.restore`, to go on with the next record.

        Args:
            split: A folder of shards, or a table `{split}.parquet` or `{split}.csv`. All shards where it is empty.
            name: One of its further datasets.

        Raises:
            InvalidArgument: there is no such dataset or part; the message says which there are.
        """
        from aios.train.splits import open_split

        return open_split(self.files(name), split, self.seed, self._home.scratch, shuffle=shuffle)

    def base_model(self) -> tuple[Path, tensor_pb2.Signature]:
        """The folder with the files of the model version that the run starts from, and what that takes and gives."""
        return self._home.base_model(self._home.scratch / "base")

    def restore(self) -> Checkpoint | None:
        """Take the run over, from its newest checkpoint where there is one. Call once, before the first step.

        Every rank calls it, once they can speak to each other, and has the same checkpoint.
        """
        found = self._ranks.of_first(self._home.restore())
        if found is not None and self._ranks.rank > 0 and os.environ.get(RESTORED) == found.name:
            # On another machine the same files have another path.
            return replace(found, folder=Path(os.environ["AIOS_CHECKPOINT_DIR"]))
        return found

    @contextmanager
    def save(self, step: int) -> Iterator[Path]:
        """Give an empty folder; what is in it at the end of the block is the checkpoint of `step`.

        Once the block has ended it is durable and can be restored; a block that raises saves nothing. Every rank comes
        here and has the same folder: the first one writes a model that all have, each one its part of one that is shared.
        """
        with telemetry.span("save checkpoint", attributes={"aios.step": step}):
            first = self._ranks.rank == 0
            folder = self._ranks.of_first(self.folder(f"saving-{threading.get_ident()}") if first else Path())
            try:
                yield folder
                self._ranks.wait()  # until all of it is written
                if first:
                    self._home.flush()  # what was measured before the checkpoint is not measured again
                    self._home.save(step, folder)
                self._ranks.wait()  # until it is durable
            finally:
                if first:
                    shutil.rmtree(folder, ignore_errors=True)

    def report(self, step: int, /, **metrics: float) -> None:
        """Send metrics of a step, in the background. A value that is no finite number is told on stderr and left out.

        Raises:
            StaleEpoch: a newer attempt has taken the run over; let it end the process.
            InvalidArgument: a name or step that no metric can have.
        """
        self._check(step, metrics)
        if self._beats is not None:
            self._beats.trained()
        self._progress.step = step
        self._newest.update(metrics)
        self._home.put(step, metrics, self._progress)

    def progress(self, phase: str, total_steps: int = 0) -> None:
        """Say what the process is at, and how many steps there will be."""
        self._progress.phase = phase
        self._progress.total_steps = total_steps or self._progress.total_steps
        self._home.put(self._progress.step, {}, self._progress)

    @contextmanager
    def phase(self, name: str, total_steps: int = 0) -> Iterator[None]:
        """A part of the work with a name: in the progress and in the trace."""
        self.progress(name, total_steps)
        with telemetry.span(name):
            yield

    def should_stop(self) -> bool:
        """Whether to save and leave: the run was cancelled, or its place is needed.

        The ranks agree on it, so that they leave after the same step: every one asks equally often.
        """
        self._home.minds_stops()
        if self._beats is not None:
            self._beats.trained()
        return self._ranks.any(self.stopping)

    @property
    def stopping(self) -> bool:
        """The same, for who cannot promise that anything is saved."""
        return self._stop.is_set()

    def leave(self) -> NoReturn:
        """End the process after a stop, once its state is saved."""
        self._home.flush()
        raise Stopped(EXIT_STOPPED)

    def complete(
        self,
        model: Path | None = None,
        signature: tensor_pb2.Signature | None = None,
        metrics: Mapping[str, float] | None = None,
        outputs: Path | None = None,
        *,
        card: str = "",
        rejected: str = "",
    ) -> str:
        """Hand over the result: a folder with the model's files, what it takes and gives, its final metrics.

        The metrics are reported as well, at the last step that was, but for those whose newest report says the same.

        Args:
            outputs: A folder with everything else that is to be kept, such as a report.
            card: What people should know before they use the model: Markdown.
            rejected: Why the model must not be promoted, where it missed what was asked of it.

        Returns:
            The registered model version's name; empty where the run registers none.
        """
        if fresh := {key: value for key, value in (metrics or {}).items() if value != self._newest.get(key)}:
            self.report(self._progress.step, **fresh)
        self._home.flush()
        with telemetry.span("register model"):
            return self._home.complete(model, signature, metrics or {}, outputs, card, rejected)

    def folder(self, name: str) -> Path:
        """A fresh folder of this attempt's own."""
        folder = self._home.scratch / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def _check(self, step: int, metrics: dict[str, float]) -> None:
        if step < 0:
            raise InvalidArgument.of("step", f"must not be negative, as {step} is")
        for key, value in list(metrics.items()):
            if key not in self._known:
                if not _KEY.fullmatch(key):
                    raise InvalidArgument.of(
                        "key", f"{key[:80]!r} must be letters, digits, spaces or . / @ _ -"
                    )
                self._known.add(key)
            metrics[key] = value = float(value)  # of any framework's scalars
            if not math.isfinite(value):
                del metrics[key]
                if key not in self._warned:
                    self._warned.add(key)
                    print(f"aios: {key} is {value} at step {step}: not stored", file=sys.stderr)


@contextmanager
def _traced() -> Iterator[None]:
    settings = Settings.load()
    if settings.telemetry and settings.token_file is not None:
        telemetry.setup_job("trainer.job", settings, token_file(settings.token_file))
    try:
        with telemetry.span("training process", traceparent=os.environ.get("TRACEPARENT")):
            yield
    finally:
        telemetry.shutdown()


@contextmanager
def _untraced() -> Iterator[None]:
    yield


@contextmanager
def joined(home_of: type[Remote]) -> Iterator[Run]:
    """Join the run of this job by another view of it. It leaves tracing alone."""
    stop = threading.Event()
    home = _remote(os.environ["AIOS_JOB"], int(os.environ["AIOS_EPOCH"]), stop, home_of)
    before = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        yield Run(home, stop, {})
    finally:
        home.close()
        signal.signal(signal.SIGTERM, before)


def _remote(job: str, epoch: int, stop: threading.Event, home_of: type[Remote] = Remote) -> Remote:
    settings = Settings.load()
    if settings.token_file is None:
        raise FailedPrecondition(
            "This is no job of the platform: AIOS_JOB is set and AIOS_TOKEN_FILE is not.", reason="NO_JOB"
        )
    scratch = Path(os.environ.get("AIOS_SCRATCH") or tempfile.mkdtemp(prefix="aios-"))
    return home_of(settings.address, token_file(settings.token_file), job, epoch, scratch, stop.set)


def _follower(folder: Path, seed: int, datasets: Mapping[str, Path]) -> Follower:
    name, scratch = str(folder), folder / "scratch"
    if "AIOS_JOB" in os.environ:
        job = JobName.parse(os.environ["AIOS_JOB"], "AIOS_JOB")
        name, scratch = str(RunName(job.project, job.job)), Path(os.environ["AIOS_SCRATCH"])
    return Follower(name, spec_told() or _spec_of_environment(seed), scratch, datasets)


def _spec_of_environment(seed: int) -> run_pb2.RunSpec:
    spec = run_pb2.RunSpec(seed=seed)
    spec.hyperparameters.update(json.loads(os.environ.get("AIOS_HPARAMS") or "{}"))
    return spec


def _datasets_here(given: str | Path | Mapping[str, str | Path] | None) -> dict[str, Path]:
    """By name, the run's own as `dir`: what the environment says goes before what the script does."""
    named = given if isinstance(given, Mapping) else {"dir": given} if given is not None else {}
    return {(name or "dir"): Path(path) for name, path in named.items()} | {
        name.removeprefix(_DATA).lower(): Path(value)
        for name, value in os.environ.items()
        if name.startswith(_DATA)
    }


def _whole(value: Any) -> Any:
    """Whole numbers as int, at any depth."""
    if isinstance(value, dict):
        return {key: _whole(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
