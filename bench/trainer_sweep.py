"""Successive halving beside full random search: what it finds, and how many epochs it takes.

Trials are the `mlp` recipe's network, optimizer, schedule and order of samples on scikit-learn's digits, trained in
this process epoch by epoch; what is started, paused and taken up again is decided by the sweep's own code. The best
value is of the validation part, which the search looks at; the chosen network's accuracy on a part that no search has
seen is printed beside it.
"""

import statistics
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.nn import functional

from aios.names import SweepName
from bench.report import Report
from services.trainer import runs
from services.trainer.job import data, optimizers
from services.trainer.job.tables import Scaling
from services.trainer.recipes.mlp import Perceptron
from services.trainer.sweeps import rules, sampling
from services.trainer.sweeps.advance import View, advance
from services.trainer.sweeps.rules import (
    UNDER_WAY,
    Budget,
    Objective,
    Pruner,
    Sampler,
    State,
    Sweep,
    SweepSpec,
    Trial,
)
from services.trainer.sweeps.space import Choice, Parameter, Range, Values

POINTS_MAX, EPOCHS_SHARE_MAX = 0.6, 0.5
SEEDS = range(5)
EPOCHS = 27
RANDOM_TRIALS, HALVING_TRIALS = 30, 100
PARALLELISM = 4
TRAIN, VALIDATION = 1_000, 397  # of 1,797; the rest is the test part
NOW = datetime(2030, 1, 1, tzinfo=UTC)
SPACE = [
    Parameter("learning_rate", Range(1e-4, 1e-1, log=True)),
    Parameter("weight_decay", Range(1e-5, 1.0, log=True)),
    Parameter("width", Range(8, 128, log=True, whole=True)),
    Parameter("layers", Range(1, 3, whole=True)),
    Parameter("dropout", Range(0.0, 0.6)),
    Parameter("batch_size", Choice((32, 64, 128, 256))),
]


@dataclass
class Digits:
    """The parts, shuffled by the seed."""

    seed: int
    x: list[torch.Tensor] = field(init=False)
    y: list[torch.Tensor] = field(init=False)

    def __post_init__(self) -> None:
        found = load_digits()
        order = np.random.default_rng(self.seed).permutation(len(found.target))
        parts = np.split(order, [TRAIN, TRAIN + VALIDATION])
        self.x = [torch.from_numpy(found.data[part]).float() for part in parts]
        self.y = [torch.from_numpy(found.target[part]) for part in parts]


@dataclass
class Training:
    """One trial: it goes on by an epoch whenever it is asked to, and stands still otherwise."""

    digits: Digits
    values: Values
    curve: list[float] = field(default_factory=list)
    test: float = 0.0

    def __post_init__(self) -> None:
        self._epochs = self._train()

    def step(self) -> None:
        next(self._epochs)

    def _train(self) -> Generator[None]:
        settings, x, y = self.values, self.digits.x, self.digits.y
        torch.manual_seed(self.digits.seed)
        batch = int(settings["batch_size"])
        layers = [int(settings["width"])] * int(settings["layers"])
        model = Perceptron(Scaling.of(x[0].numpy()), layers, 10, float(settings["dropout"]))
        rate = float(settings["learning_rate"])
        optimizer = optimizers.make("adamw", model.parameters(), rate, float(settings["weight_decay"]))
        per_epoch = data.steps_per_epoch(TRAIN, batch)
        total = EPOCHS * per_epoch
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=rate, total_steps=total, cycle_momentum=False
        )
        for step, _, chosen in data.batches(TRAIN, batch, EPOCHS, self.digits.seed, 0):
            model.train()
            loss = functional.cross_entropy(model(x[0][chosen]), y[0][chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if step < total:
                schedule.step()
            if step % per_epoch == 0:
                model.eval()
                with torch.no_grad():
                    self.curve.append(float((model(x[1]).argmax(1) == y[1]).float().mean()))
                    self.test = float((model(x[2]).argmax(1) == y[2]).float().mean())
                yield


@dataclass(frozen=True)
class Found:
    """What a sweep came to."""

    best: float
    test: float
    epochs: int
    whole: int
    """Trials that ran to their end."""


def search(spec: SweepSpec, digits: Digits) -> Found:
    """Play a sweep: all its running trials train an epoch, then it decides, and so on."""
    sweep = Sweep(SweepName("bench", "s"), spec, State.RUNNING, NOW, NOW)
    trials: Sequence[Trial] = ()
    trainings: dict[int, Training] = {}
    stopped: set[int] = set()
    while sweep.state not in rules.FINAL:
        views = {
            trial.number: _view(trainings[trial.number], trial.number in stopped)
            for trial in trials
            if trial.state in UNDER_WAY
        }
        decided = advance(sweep, trials, views, None, NOW, sampling.propose)
        sweep, trials = decided.sweep, decided.trials
        for start in decided.starts:
            stopped.discard(start.trial)
            trainings.setdefault(start.trial, Training(digits, start.values))
        names = {sweep.run_of(trial.number, trial.runs): trial.number for trial in trials}
        stopped |= {names[name] for name in decided.stops}
        for trial in trials:
            if trial.state in UNDER_WAY and trial.number not in stopped:
                trainings[trial.number].step()
    best = rules.best(spec, trials)[0]
    epochs = sum(len(training.curve) for training in trainings.values())
    whole = sum(len(training.curve) == EPOCHS for training in trainings.values())
    return Found(best.scores[0], trainings[best.number].test, epochs, whole)


def _view(training: Training, stopped: bool) -> View:
    done = len(training.curve) == EPOCHS
    state = runs.State.SUCCEEDED if done else runs.State.CANCELLED if stopped else runs.State.RUNNING
    return View(state, "", training.curve[-1:], training.curve, len(training.curve))


def spec(seed: int, pruner: str, sampler: str, trials: int) -> SweepSpec:
    """A sweep of the bench."""
    return SweepSpec(
        space=SPACE,
        objectives=[Objective("validation_accuracy")],
        sampler=Sampler(sampler, seed),
        pruner=Pruner(pruner, first=1, reduction=3, last=EPOCHS),
        parallelism=PARALLELISM,
        budget=Budget(trials),
    )


def main() -> None:
    """Both for each seed, and a learning sampler with halving beside them."""
    torch.set_num_threads(1)
    report = Report("trainer_sweep")
    ways = {
        "random": ("none", "random", RANDOM_TRIALS),
        "asha": ("asha", "random", HALVING_TRIALS),
        "tpe_asha": ("asha", "tpe", HALVING_TRIALS),
    }
    found: dict[str, list[Found]] = {name: [] for name in ways}
    for seed in SEEDS:
        digits = Digits(seed)
        for name, (pruner, sampler, trials) in ways.items():
            one = search(spec(seed, pruner, sampler, trials), digits)
            found[name].append(one)
            report.say(f"seed {seed}, {name}: {one}")
    for name, several in found.items():
        report.figure(f"{name}_validation", statistics.mean(each.best for each in several) * 100)
        report.figure(f"{name}_test", statistics.mean(each.test for each in several) * 100)
        report.figure(f"{name}_epochs", statistics.mean(each.epochs for each in several))
    for name in ("asha", "tpe_asha"):
        pairs = list(zip(found["random"], found[name], strict=True))
        points = statistics.mean(whole.best - halved.best for whole, halved in pairs) * 100
        share = statistics.mean(halved.epochs / whole.epochs for whole, halved in pairs)
        if name == "asha":
            report.bar("asha_points_below_random", points, POINTS_MAX)
            report.bar("asha_share_of_epochs", share, EPOCHS_SHARE_MAX)
        else:
            report.figure(f"{name}_points_below_random", points)
            report.figure(f"{name}_share_of_epochs", share)
    report.finish()


if __name__ == "__main__":
    main()
