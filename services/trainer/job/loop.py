"""The loop that recipes with a gradient share: batches, updates, checkpoints, a wish to stop."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from aios.runtime import telemetry
from aios.train import Run
from services.trainer.job import checkpoint, data, optimizers

CHECKPOINTS_PER_RUN = 4  # where the run does not say
REPORT_STEPS = 10


def device() -> torch.device:
    """Where to train: on a GPU where the job has one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def prepare(run: Run) -> Mapping[str, Any]:
    """Threads and seed as the run says; its settings."""
    torch.set_num_threads(run.hparams.get("threads", 1))
    torch.manual_seed(run.seed)
    return run.hparams


def fit(
    run: Run,
    model: nn.Module,
    samples: int,
    loss: Callable[[torch.Tensor], torch.Tensor],
    evaluate: Callable[[], Mapping[str, float]],
    *,
    decay: bool = True,
) -> None:
    """Train a model, from the run's checkpoint on where it has one. Ends the process when the run is asked to stop.

    The learning rate rises to its peak in the first third of all steps and falls to nothing (Smith and Topin 2018).

    Args:
        loss: The mean loss of the samples with these indices. Shape: [batch].
        evaluate: Figures after each epoch; the model is in evaluation mode.
        decay: The optimizer shrinks weights by `weight_decay`; no where it is a term of the loss.
    """
    settings = run.hparams
    epochs = settings["epochs"]
    batch_size = samples if settings["optimizer"] == "gd" else settings["batch_size"]
    per_epoch = data.steps_per_epoch(samples, batch_size)
    total = epochs * per_epoch
    optimizer = optimizers.make(
        settings["optimizer"],
        model.parameters(),
        settings["learning_rate"],
        settings["weight_decay"] if decay else 0.0,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=settings["learning_rate"], total_steps=max(2, total), cycle_momentum=False
    )
    first_step = _restore(run, model, optimizer, schedule)
    save_every = run.checkpoint_steps or max(1, total // CHECKPOINTS_PER_RUN)
    with run.phase("train", total):
        for step, epoch, chosen_B in data.batches(samples, batch_size, epochs, run.seed, first_step):
            model.train()
            value = loss(chosen_B)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            if step < total:
                schedule.step()
            if step % REPORT_STEPS == 0 or step == total:
                run.report(step, loss=value.item(), learning_rate=float(schedule.get_last_lr()[0]))
            if step % per_epoch == 0:
                with telemetry.span("evaluate", attributes={"aios.epoch": epoch}), torch.no_grad():
                    model.eval()
                    figures = evaluate()
                run.report(step, **figures)
                said = ", ".join(f"{name} {figure:.4f}" for name, figure in figures.items())
                print(f"epoch {epoch}/{epochs}: loss {value.item():.4f}, {said}", flush=True)
            stopping = run.should_stop()
            if (stopping or step % save_every == 0) and step < total:
                with run.save(step) as folder:
                    checkpoint.save(folder, model, optimizer, step=step)
            if stopping:
                run.leave()
    model.eval()


def _restore(
    run: Run,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> int:
    """The step to go on after; 0 from the start."""
    found = run.restore()
    if found is None:
        return 0
    checkpoint.load(found.folder, model, optimizer)
    with warnings.catch_warnings(action="ignore"):  # of a schedule without updates between its steps
        for _ in range(found.step):  # it is a function of the step alone
            schedule.step()
    print(f"restored step {found.step}", flush=True)
    return found.step
