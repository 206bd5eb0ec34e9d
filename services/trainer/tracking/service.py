"""What is done with experiments and tracked runs, between their door and their records."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

from aios.errors import InvalidArgument
from aios.names import RunName, new_id
from aios.records import Database, Tx
from aios.runtime import telemetry
from aios.runtime.clock import Clock
from aios.runtime.context import principal
from services.trainer import metrics
from services.trainer import store as run_store
from services.trainer.metrics import Point
from services.trainer.runs import FINAL, Run, RunNotFound, RunSpec, State
from services.trainer.tracking import experiments, filters, logged_store, store
from services.trainer.tracking.experiments import STATE, Experiment, NotTracked, Said
from services.trainer.tracking.reach import own_of, own_run, reach, reach_model
from services.trainer.tracking.store import Tracked

SEARCH_SIZE, SEARCH_SIZE_MAX = 1_000, 5_000  # of runs: what fits into a message
HISTORY_SIZE_MAX = 25_000
LINKS_MAX = 100
PARENT, ATTEMPT = "mlflow.parentRunId", "aios.attempt"


@dataclass(frozen=True)
class Beside:
    """What is looked up for a page of runs at once."""

    steps: Mapping[tuple[RunName, str], tuple[int, datetime]]
    """Where the newest value of each metric was measured."""
    links: Mapping[tuple[RunName, str], Sequence[Mapping[str, Any]]]
    """What each was given and made, by kind."""


class Tracking:
    """Experiments and tracked runs of the caller's project."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    async def create_experiment(self, name: str, tags: Sequence[tuple[str, str]]) -> str:
        """Make an experiment; returns its id."""
        now = self._clock.now()
        words = experiments.said(tags=tags).tags
        made = Experiment(new_id("e"), experiments.check_name(name), now, now, words)
        project = principal().project
        await self._db.write(lambda tx: store.add_experiment(tx, project, made))
        return made.id

    async def experiment(self, experiment_id: str) -> Experiment:
        """One experiment by its id."""
        project, now = principal().project, self._clock.now()
        return await self._db.read(lambda tx: store.experiment(tx, project, experiment_id, now))

    async def experiment_named(self, name: str) -> Experiment:
        """One experiment by its name."""
        project, now = principal().project, self._clock.now()
        return await self._db.read(lambda tx: store.experiment_named(tx, project, name, now))

    async def experiments(self) -> list[Experiment]:
        """Every experiment, newest first."""
        project, now = principal().project, self._clock.now()
        return await self._db.read(lambda tx: store.all_experiments(tx, project, now))

    async def change_experiment(self, experiment_id: str, change: Callable[[Experiment], Experiment]) -> None:
        """Store what `change` makes of an experiment."""
        project, now = principal().project, self._clock.now()

        def write(tx: Tx) -> None:
            before = store.experiment(tx, project, experiment_id, now)
            after = change(before)
            if after != before:
                store.save_experiment(tx, project, before, replace(after, update_time=now))

        await self._db.write(write)

    async def start(
        self, experiment_id: str, title: str, user: str, began: int, tags: Sequence[tuple[str, str]]
    ) -> Tracked:
        """Take over a run that has begun somewhere.

        The first one that each attempt of a job begins is the job's own run: a script that tracks itself is one run,
        under the name and in the experiment that it asks for.
        """
        now = self._clock.now()
        words = dict(experiments.said(tags=tags).tags)
        asked = title = title or words.get("mlflow.runName", "")
        caller = principal()
        run = Run(
            name=RunName(caller.project, secrets.token_hex(16)),
            spec=RunSpec(recipe="", dataset_version="", hyperparameters=MappingProxyType({})),
            state=State.RUNNING,
            create_time=experiments.moment(began) if began else now,
            update_time=now,
            creator=caller.job or caller.subject,
            traceparent=telemetry.current_traceparent(),
        )
        placed = experiment_id or experiments.DEFAULT
        title = title or f"run-{run.name.run[:8]}"
        words["mlflow.runName"] = title
        made = Tracked(run, placed, title, user or caller.subject, tags=words, ours=False)

        def write(tx: Tx) -> Tracked:
            _require_active(store.experiment(tx, caller.project, placed, now))
            mine = own_of(tx)
            if mine is not None and PARENT not in words:
                own = mine.name
                reach(tx, own)
                begun = {ATTEMPT: str(caller.epoch)}
                if store.get(tx, own).tags.get(ATTEMPT) != begun[ATTEMPT]:
                    # Where it was put it stays: its artifacts lie there.
                    if not store.placed(tx, own):
                        store.place(tx, own, placed, asked or own.run, made.user)
                    store.put_tags(tx, own, words | begun)
                    return store.get(tx, own)
            store.add(tx, made)
            return made

        return await self._db.write(write)

    async def get(self, run_id: str) -> Tracked:
        """One run."""
        name = _name(run_id)
        return await self._db.read(lambda tx: store.get(tx, name))

    async def update(self, run_id: str, status: str, ended: int, title: str) -> Tracked:
        """Say how a tracked run goes."""
        name, now = _name(run_id), self._clock.now()
        if status and status not in STATE:
            raise InvalidArgument.of("status", f"must be one of {', '.join(STATE)}, not {status[:40]!r}")

        def write(tx: Tx) -> Tracked:
            before = reach(tx, name)
            if name != own_run():  # of which the job's end says how it went
                _theirs(store.get(tx, name))
                state = STATE[status] if status else before.state
                end = (experiments.moment(ended) if ended else now) if state in FINAL else None
                kept = before.end_time if state is before.state and not ended else end
                after = replace(before, state=state, end_time=kept)
                if after != before:
                    run_store.save(tx, before, replace(after, update_time=now))
            if title:
                store.change(tx, name, title=title)
                store.put_tags(tx, name, {"mlflow.runName": title})
            return store.get(tx, name)

        return await self._db.write(write)

    async def hide(self, run_id: str, *, hidden: bool) -> None:
        """Hide a tracked run, or show it again."""
        name = _name(run_id)

        def write(tx: Tx) -> None:
            reach(tx, name)
            _theirs(store.get(tx, name))
            store.change(tx, name, deleted=hidden)

        await self._db.write(write)

    async def log(self, run_id: str, said: Said, of_models: Sequence[Mapping[str, Any]] = ()) -> None:
        """Store what a call says of a run, and of logged models: all of it, or nothing."""
        name, now = _name(run_id), self._clock.now()
        points = metrics.check(list(said.points))

        def write(tx: Tx) -> None:
            before = reach(tx, name)
            for each in of_models:
                reach_model(tx, name.project, each["model_id"])
            logged_store.measure(tx, name.project, of_models, now)
            store.put_params(tx, name, said.params)
            store.put_tags(tx, name, said.tags)
            if "mlflow.runName" in said.tags:
                store.change(tx, name, title=said.tags["mlflow.runName"])
            if points:
                run_store.add_points(tx, name, points)
                newest = store.newest(tx, name, {point.key for point in points})
                run_store.save(
                    tx,
                    before,
                    replace(before, metrics=MappingProxyType({**before.metrics, **newest}), update_time=now),
                )

        await self._db.write(write)

    async def link(self, run_id: str, **bodies: Mapping[str, Mapping[str, Any]]) -> None:
        """Store what a run was given or made: by kind, and by a key of each."""
        name = _name(run_id)
        if any(len(each) > LINKS_MAX for each in bodies.values()):
            raise InvalidArgument.of("models", f"at most {LINKS_MAX} at once")

        def write(tx: Tx) -> None:
            reach(tx, name)
            for kind, each in bodies.items():
                for model in each if kind != logged_store.DATASET else ():
                    logged_store.get(tx, name.project, model)
                logged_store.link(tx, name, kind, each)

        await self._db.write(write)

    async def remove_tag(self, run_id: str, key: str) -> None:
        """Remove a tag of a run."""
        name = _name(run_id)

        def write(tx: Tx) -> None:
            reach(tx, name)
            store.remove_tag(tx, name, key)

        await self._db.write(write)

    async def search(
        self,
        experiment_ids: Sequence[str],
        text: str,
        view: str,
        size: int,
        order_by: Sequence[str],
        token: str,
    ) -> tuple[list[Tracked], Beside, str]:
        """A page of runs, what lies beside them, and the next page's token."""
        project = principal().project
        view = experiments.check_view(view, "run_view_type")
        asked, order = filters.conditions(text, store.TIMES), filters.orders(order_by)
        if size < 0:
            raise InvalidArgument.of("max_results", "must not be negative")

        def read(tx: Tx) -> tuple[list[Tracked], Beside, str]:
            limit = min(size or SEARCH_SIZE, SEARCH_SIZE_MAX)
            found, more = store.search(tx, project, experiment_ids, asked, order, view, limit, token)
            return found, _beside(tx, found), more

        return await self._db.read(read)

    async def beside(self, tracked: Tracked) -> Beside:
        """What lies beside a run."""
        return await self._db.read(lambda tx: _beside(tx, [tracked]))

    async def history(self, run_id: str, key: str, size: int, token: str) -> tuple[list[Point], str]:
        """A page of one metric's points, and the next page's token."""
        name = _name(run_id)
        if size < 0:
            raise InvalidArgument.of("max_results", "must not be negative")

        def read(tx: Tx) -> tuple[list[Point], str]:
            run_store.get(tx, name)
            limit = min(size or HISTORY_SIZE_MAX, HISTORY_SIZE_MAX)
            return store.history(tx, name, key, limit, token)

        return await self._db.read(read)


def _beside(tx: Tx, found: Sequence[Tracked]) -> Beside:
    runs = [tracked.run for tracked in found]
    return Beside(store.steps(tx, runs), logged_store.links(tx, [run.name for run in runs]))


def _name(run_id: str) -> RunName:
    """The run of the caller's project."""
    try:
        return RunName.parse(f"projects/{principal().project}/runs/{run_id}")
    except InvalidArgument:
        raise RunNotFound(f"No run {run_id[:63]!r} in this project.", run=run_id[:63]) from None


def _theirs(tracked: Tracked) -> Tracked:
    if tracked.ours:
        raise NotTracked(
            f"{tracked.run.name} is run by the platform: `aios run cancel` ends it.",
            run=str(tracked.run.name),
        )
    return tracked


def _require_active(experiment: Experiment) -> None:
    if experiment.deleted:
        raise InvalidArgument.of(
            "experiment_id", f"{experiment.name} is deleted: restore it, or take another experiment"
        )
