"""A run for Hugging Face's Trainer: what it logs are the run's metrics, and it saves, leaves and goes on as a run does.

    with aios.train.init() as run:
        trainer = Trainer(model, arguments, train_dataset=rows, callbacks=[RunCallback(run)])
        trainer.train(resume_from_checkpoint=checkpoint(run))

Its checkpoints are the run's: `save_steps` and `save_strategy` of the arguments say how often.
"""

import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from aios.train.run import Run


def checkpoint(run: Run) -> str | None:
    """What `train` goes on from as `resume_from_checkpoint`; None the first time. Call once, before it."""
    found = run.restore()
    return str(found.folder) if found else None


class RunCallback(TrainerCallback):
    """Every rank has one."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._leaves = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Say how far it will go."""
        self._run.progress("train", state.max_steps)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Numbers of one step; its learning curve and its evaluations."""
        numbers = {key: value for key, value in (logs or {}).items() if isinstance(value, int | float)}
        self._run.report(state.global_step, **numbers)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """After a stop the Trainer saves once more, and ends."""
        if self._run.should_stop():
            self._leaves = control.should_save = control.should_training_stop = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Its folder, which it may remove once there are newer ones, becomes the run's checkpoint."""
        saved = Path(args.output_dir or "", f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")
        with self._run.save(state.global_step) as folder:
            if self._run.rank == 0:
                shutil.copytree(saved, folder, dirs_exist_ok=True)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Everything is saved."""
        if self._leaves:
            self._run.leave()
