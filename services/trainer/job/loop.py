"""The loop that recipes with a gradient share: batches, updates, checkpoints, a wish to stop."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from aios.runtime import telemetry
from aios.train import Run
from services.trainer.job import checkpoint, data, optimizers
from services.trainer.job.privacy import Private

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
) -> dict[str, float]:
    """Train a model, from the run's checkpoint on where it has one. Ends the process when the run is asked to stop.

    The learning rate rises to its peak in the first third of all steps and falls to nothing (Smith and Topin 2018).

    Returns:
        ε and δ, where the run asked for privacy (`dp_epsilon`).

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
    private = None
    if settings.get("dp_epsilon"):
        private = Private(
            model,
            optimizer,
            samples=samples,
            batch_size=batch_size,
            epochs=epochs,
            epsilon=settings["dp_epsilon"],
            delta=settings["dp_delta"],
            clip=settings["dp_clip"],
        )
    first_step = _restore(run, model, optimizer, schedule, private)
    save_every = run.checkpoint_steps or max(1, total // CHECKPOINTS_PER_RUN)
    if private is None:
        batches = data.batches(samples, batch_size, epochs, run.seed, first_step)
    else:
        batches = private.batches(first_step)
    with run.phase("train", total):
        for step, epoch, chosen_B in batches:
            model.train()
            losses = _step(optimizer, private, loss, chosen_B)
            if step < total:
                schedule.step()
            if step % REPORT_STEPS == 0 or step == total:
                told = {name: value.item() for name, value in losses.items()}
                run.report(step, **told, learning_rate=float(schedule.get_last_lr()[0]))
            if step % per_epoch == 0:
                with telemetry.span("evaluate", attributes={"aios.epoch": epoch}), torch.no_grad():
                    model.eval()
                    figures = dict(evaluate())
                if private is not None:
                    figures["epsilon"] = private.epsilon
                run.report(step, **figures)
                shown = {**{name: value.item() for name, value in losses.items()}, **figures}
                said = ", ".join(f"{name} {figure:.4f}" for name, figure in shown.items())
                print(f"epoch {epoch}/{epochs}: {said}", flush=True)
            stopping = run.should_stop()
            if (stopping or step % save_every == 0) and step < total:
                with run.save(step) as folder:
                    checkpoint.save(folder, model, optimizer, step=step)
                    if private is not None:
                        private.save(folder)
            if stopping:
                run.leave()
    model.eval()
    if private is None:
        return {}
    private.finish()
    return private.spent


def _step(
    optimizer: torch.optim.Optimizer,
    private: Private | None,
    loss: Callable[[torch.Tensor], torch.Tensor],
    chosen_B: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """One update; the loss, where it may be told."""
    if private is None:
        value = loss(chosen_B)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        return {"loss": value}
    private.clear()
    if len(chosen_B):
        loss(chosen_B).backward()
    else:
        private.nothing_drawn()
    private.step()
    return {}


def _restore(
    run: Run,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    private: Private | None,
) -> int:
    """The step to go on after; 0 from the start."""
    found = run.restore()
    if found is None:
        return 0
    checkpoint.load(found.folder, model, optimizer)
    if private is not None:
        private.restore(found.folder)
    with warnings.catch_warnings(action="ignore"):  # of a schedule without updates between its steps
        for _ in range(found.step):  # it is a function of the step alone
            schedule.step()
    print(f"restored step {found.step}", flush=True)
    return found.step
