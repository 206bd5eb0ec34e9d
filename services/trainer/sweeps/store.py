"""Sweeps and their trials in SQL."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

from sqlalchemy import Row, insert, select, update

from aios.names import SweepName
from aios.records import Page, Tx
from aios.records.pages import ListRequest
from aios.trainer.v1 import sweep_pb2
from services.trainer.sweeps import mapping
from services.trainer.sweeps.rules import (
    FINAL,
    State,
    Sweep,
    SweepExists,
    SweepNotFound,
    Trial,
    TrialState,
)
from services.trainer.tables import sweeps, trials


def add(tx: Tx, sweep: Sweep) -> None:
    """Store a new sweep and tell of it.

    Raises:
        SweepExists: the name is taken.
    """
    if tx.execute(select(sweeps.c.sweep).where(_is(sweep.name))).first() is not None:
        raise SweepExists(
            f"{sweep.name} exists: choose another sweep_id, or leave it empty.", sweep=str(sweep.name)
        )
    tx.execute(insert(sweeps).values(project=sweep.name.project, sweep=sweep.name.sweep, **_columns(sweep)))
    _tell(tx, sweep, [], "created")


def get(tx: Tx, name: SweepName) -> Sweep:
    """One sweep.

    Raises:
        SweepNotFound: there is none of this name.
    """
    row = tx.execute(select(sweeps).where(_is(name))).one_or_none()
    if row is None:
        raise SweepNotFound(f"{name} does not exist.", sweep=str(name))
    return _sweep(row)


def page(tx: Tx, project: str, request: ListRequest) -> tuple[list[Sweep], str]:
    """The sweeps of a project, newest first, and the next page's token."""
    query = select(sweeps).where(sweeps.c.project == project)
    rows, token = Page.of(request).fetch(
        tx, query, by=(sweeps.c.create_time, sweeps.c.sweep), descending=True
    )
    return [_sweep(row) for row in rows], token


def under_way(tx: Tx) -> list[SweepName]:
    """Every sweep that has not ended."""
    query = select(sweeps.c.project, sweeps.c.sweep).where(sweeps.c.state.not_in(FINAL))
    return [SweepName(row.project, row.sweep) for row in tx.execute(query)]


def all_trials(tx: Tx, name: SweepName) -> list[Trial]:
    """Every trial of a sweep, by number."""
    rows = tx.execute(select(trials).where(*_trials_of(name)).order_by(trials.c.number))
    return [_trial(row) for row in rows]


def trials_page(tx: Tx, name: SweepName, request: ListRequest) -> tuple[list[Trial], str]:
    """Trials of a sweep by number, and the next page's token."""
    query = select(trials).where(*_trials_of(name))
    rows, token = Page.of(request).fetch(tx, query, by=(trials.c.number,))
    return [_trial(row) for row in rows], token


def save(
    tx: Tx, before: Sweep, after: Sweep, had: Sequence[Trial], have: Sequence[Trial], now: datetime
) -> Sweep:
    """Store what a sweep and its trials became, and tell of it where more than a figure changed."""
    changed = [trial for trial in have if trial.number >= len(had) or trial != had[trial.number]]
    if after == before and not changed:
        return after
    after = replace(after, version=before.version + 1, update_time=now)
    tx.execute(update(sweeps).where(_is(after.name)).values(_columns(after)))
    for trial in changed:
        if trial.number < len(had):
            tx.execute(
                update(trials)
                .where(*_trials_of(after.name), trials.c.number == trial.number)
                .values(_trial_columns(trial))
            )
        else:
            key = {"project": after.name.project, "sweep": after.name.sweep, "number": trial.number}
            tx.execute(insert(trials).values({**key, **_trial_columns(trial)}))
    if after.state is not before.state:
        _tell(tx, after, have, after.state.value.lower())
    elif any(trial.number >= len(had) or trial.state is not had[trial.number].state for trial in changed):
        _tell(tx, after, have, "changed")
    return after


def _tell(tx: Tx, sweep: Sweep, known: Sequence[Trial], event: str) -> None:
    body = mapping.sweep_to_proto(sweep, known)
    tx.emit("sweep", sweep.name.project, sweep.name.sweep, event, body)


def _is(name: SweepName) -> Any:
    return (sweeps.c.project == name.project) & (sweeps.c.sweep == name.sweep)


def _trials_of(name: SweepName) -> tuple[Any, Any]:
    return trials.c.project == name.project, trials.c.sweep == name.sweep


def _columns(sweep: Sweep) -> dict[str, Any]:
    fields = (
        "asked", "version", "reason", "message", "creator", "traceparent", "last_created",
        "create_time", "update_time", "end_time",
    )  # fmt: skip
    return {"state": sweep.state.value, **{name: getattr(sweep, name) for name in fields}}


def _sweep(row: Row[Any]) -> Sweep:
    stored = dict(row._mapping)
    asked = sweep_pb2.SweepSpec.FromString(stored["asked"])
    return Sweep(
        name=SweepName(stored.pop("project"), stored.pop("sweep")),
        spec=mapping.spec_from_proto(asked),
        state=State(stored.pop("state")),
        last=asked.HasField("last"),
        **stored,
    )


def _trial_columns(trial: Trial) -> dict[str, Any]:
    return {
        "hyperparameters": dict(trial.values),
        "attributes": dict(trial.attributes),
        "state": trial.state.value,
        "becomes": trial.then.value if trial.then else "",
        "scores": list(trial.scores),
        "looks": {str(at): value for at, value in trial.looks.items()},
        **{
            name: getattr(trial, name)
            for name in ("runs", "reports", "level", "steps", "message", "create_time", "end_time")
        },
    }


def _trial(row: Row[Any]) -> Trial:
    stored = dict(row._mapping)
    del stored["project"], stored["sweep"]
    then = stored.pop("becomes")
    return Trial(
        values=MappingProxyType(stored.pop("hyperparameters")),
        attributes=MappingProxyType(stored.pop("attributes")),
        state=TrialState(stored.pop("state")),
        then=TrialState(then) if then else None,
        scores=tuple(stored.pop("scores")),
        looks=MappingProxyType({int(at): value for at, value in stored.pop("looks").items()}),
        **stored,
    )
