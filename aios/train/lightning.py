"""A run for PyTorch Lightning: what the model logs are its metrics, and it saves, leaves and goes on as a run does.

    with aios.train.init() as run:
        trainer = Trainer(max_epochs=10, **aios.train.lightning.joined(run))
        trainer.fit(model, loader, ckpt_path=aios.train.lightning.checkpoint(run))

Lightning reads an epoch that was left in its middle from its first batch again, unless the loader keeps its own state.
"""

from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from aios.train.run import Run

FILE = "lightning.ckpt"


def joined(run: Run) -> dict[str, Any]:
    """Arguments of a Trainer that trains `run`. Checkpoints are the run's alone: Lightning writes none beside them."""
    return {"logger": RunLogger(run), "callbacks": [RunCallback(run)], "enable_checkpointing": False}


def checkpoint(run: Run) -> Path | None:
    """What `fit` goes on from as `ckpt_path`; None the first time. Call once, before it."""
    found = run.restore()
    return found.folder / FILE if found else None


class RunLogger(Logger):
    """Metrics go to the run, under Lightning's own step."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run

    @property
    def name(self) -> str:
        """The run's."""
        return self._run.name

    @property
    def version(self) -> str:
        """A run has none."""
        return ""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """They are in the run's spec already."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Of one step."""
        self._run.report(step or 0, **metrics)


class RunCallback(Callback):
    """Saves after each epoch, every `checkpoint_steps` of run.yaml where it says so, and before the process leaves."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._saved = 0
        self._leaves = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What is restored is saved already."""
        self._saved = trainer.global_step
        self._run.progress("train", _steps(trainer))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Every rank comes here after every batch."""
        self._leaves, every = self._run.should_stop(), self._run.checkpoint_steps
        if self._leaves or (every and trainer.global_step % every == 0):
            self._save(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """What the step before logged comes after its end."""
        if self._leaves:
            self._run.leave()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """An epoch is read to its end."""
        self._save(trainer)
        if self._leaves:
            self._run.leave()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Lightning ends a process that was asked to stop with 0, which would mean that the work is done."""
        if isinstance(exception, SIGTERMException):
            self._run.leave()

    def _save(self, trainer: Trainer) -> None:
        step = trainer.global_step  # of the optimizer
        if step > self._saved:
            self._saved = step
            with self._run.save(step) as folder:
                trainer.save_checkpoint(folder / FILE)


def _steps(trainer: Trainer) -> int:
    """How many there will be; 0 where that is not known."""
    steps = trainer.estimated_stepping_batches
    return int(steps) if 0 < steps < float("inf") else 0
