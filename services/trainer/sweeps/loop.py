"""Moves every sweep on: looks at what its runs have come to, decides, and stores the decision with its runs.

A decision is applied in one transaction with the runs that it makes and stops, and only to the version of the sweep
that it was made from. So a service that is killed at any moment has decided either wholly or not at all.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from aios.errors import AiosError, InvalidArgument
from aios.names import RunName, SweepName
from aios.records import Database, Feed, Tx
from aios.runtime.clock import Clock
from aios.trainer.v1 import sweep_pb2
from services.trainer import runs, store
from services.trainer.runs import Run, RunExists
from services.trainer.service import Trainer
from services.trainer.sweeps import advance, mapping, rules, sampling
from services.trainer.sweeps import store as sweep_store
from services.trainer.sweeps.advance import Decision, Start, View
from services.trainer.sweeps.rules import UNDER_WAY, Sweep, Trial

EVERY_SECONDS = 2.0  # a lost event, and a time that is up, are noticed this late
LOOK_SECONDS = 0.5  # the same for a report that another process took, where a pruner waits for it
PAUSE_SECONDS = 0.2  # between two passes at least, however many reports come
BEST_OUTPUTS = 25  # of the trials, that the last run reads

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """All that a decision is made from."""

    sweep: Sweep
    trials: Sequence[Trial]
    views: dict[int, View]
    last: View | None


class Loop:
    """One pass per change of a run or sweep, and one now and then."""

    def __init__(self, db: Database, trainer: Trainer, clock: Clock) -> None:
        self._db = db
        self._trainer = trainer
        self._feed = Feed(db)
        self._clock = clock

    async def run(self) -> None:
        """Move sweeps on until cancelled."""
        while True:
            revision = self._feed.current_revision()
            looking = False
            for name in await self._db.read(sweep_store.under_way):
                try:
                    looking |= await self.advance(name)
                except AiosError as error:
                    _log.warning("%s is not decided yet: %s", name, error.message)
            if looking:
                await self._trainer.stirred(revision, LOOK_SECONDS)
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(EVERY_SECONDS):
                    await self._feed.wait(revision)

    async def advance(self, name: SweepName) -> bool:
        """Decide once, and apply it. Says whether reports of its runs matter."""
        seen = await self._db.read(lambda tx: snapshot(tx, name))
        now = self._clock.now()
        decision = await asyncio.to_thread(
            advance.advance, seen.sweep, seen.trials, seen.views, seen.last, now, sampling.propose
        )
        await self._db.write(lambda tx: self._apply(tx, seen, decision))
        spec = seen.sweep.spec
        return spec.pruner.kind != "none" or spec.sampler.kind == "population" or spec.budget.time is not None

    def _apply(self, tx: Tx, seen: Snapshot, decision: Decision) -> None:
        before, now = sweep_store.get(tx, seen.sweep.name), self._clock.now()
        if before.version != seen.sweep.version:
            return  # it was decided otherwise meanwhile: the next pass sees it
        asked = sweep_pb2.SweepSpec.FromString(before.asked)
        trials = list(decision.trials)
        for start in decision.starts:
            try:
                store.add(tx, self._made(before, asked, start))
            except (
                InvalidArgument,
                RunExists,
            ) as error:  # values that the recipe refuses; a name that is taken
                trials[start.trial] = rules.refused(trials[start.trial], error.message, now)
        for name, why in decision.stops.items():
            run = store.get(tx, name)
            store.save(tx, run, runs.cancel(run, now, "TRIAL_STOPPED", why))
        after = decision.sweep
        if decision.make_last:
            try:
                store.add(tx, self._last(tx, after, asked, trials))
            except RunExists as error:
                after = rules.without_last(after, error.message, now)
        sweep_store.save(tx, before, after, seen.trials, trials, now)

    def _made(self, sweep: Sweep, asked: sweep_pb2.SweepSpec, start: Start) -> Run:
        now = self._clock.now()
        return Run(
            name=sweep.run_of(start.trial, start.segment),
            spec=mapping.run_spec(asked, start.values),
            state=runs.State.QUEUED,
            create_time=now,
            update_time=now,
            creator=sweep.creator,
            traceparent=sweep.traceparent,
            trial=f"sweeps/{sweep.name.sweep}/trials/{start.trial}",
            source=start.source.run if start.source else "",
        )

    def _last(self, tx: Tx, sweep: Sweep, asked: sweep_pb2.SweepSpec, trials: Sequence[Trial]) -> Run:
        """The run after all trials, with what the best of them left as its datasets."""
        now = self._clock.now()
        outputs: dict[str, str] = {}
        for trial in rules.ranked(sweep.spec, trials):
            version = store.get(tx, sweep.run_of(trial.number, trial.runs)).outputs_version
            if version and len(outputs) < BEST_OUTPUTS:
                outputs[f"trial_{trial.number}"] = version
        return Run(
            name=sweep.last_run,
            spec=mapping.last_spec(asked, outputs),
            state=runs.State.QUEUED,
            create_time=now,
            update_time=now,
            creator=sweep.creator,
            traceparent=sweep.traceparent,
        )


def snapshot(tx: Tx, name: SweepName) -> Snapshot:
    """What is stored of a sweep, its trials and their runs."""
    sweep, trials = sweep_store.get(tx, name), sweep_store.all_trials(tx, name)
    views = {trial.number: _view(tx, sweep, trial) for trial in trials if trial.state in UNDER_WAY}
    last = None
    if sweep.last_created:
        run = store.get(tx, sweep.last_run)
        last = View(run.state, run.message)
    return Snapshot(sweep, trials, views, last)


def _view(tx: Tx, sweep: Sweep, trial: Trial) -> View:
    names = [sweep.run_of(trial.number, segment) for segment in range(1, trial.runs + 1)]
    newest = store.get(tx, names[-1])
    metrics: dict[str, float] = {}
    for name in names[:-1]:
        metrics |= store.get(tx, name).metrics
    metrics |= newest.metrics
    wanted = [objective.metric for objective in sweep.spec.objectives]
    return View(
        state=newest.state,
        message=newest.message,
        scores=[metrics[key] for key in wanted] if all(key in metrics for key in wanted) else (),
        curve=_curve(tx, names, wanted[0]),
        steps=max(trial.steps, newest.progress.step),
        completed=newest.completed,
    )


def _curve(tx: Tx, names: Sequence[RunName], key: str) -> list[float]:
    """A metric by step; of what two runs have measured at one step, the later counts."""
    found: dict[int, float] = {}
    for name in names:
        found |= store.curve(tx, name, key)
    return [found[step] for step in sorted(found)]
