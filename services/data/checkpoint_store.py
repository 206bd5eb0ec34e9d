"""Rows of checkpoints."""

from typing import Any

from sqlalchemy import Row, delete, func, insert, select

from aios.names import CheckpointName, RunName
from aios.records import Page, Tx
from aios.records.pages import ListRequest
from services.data.checkpoints import Checkpoint, CheckpointNotFound, position
from services.data.store import Content, add_manifest
from services.data.tables import checkpoints


def newest_epoch(tx: Tx, run: RunName) -> int:
    """The highest attempt that has written a checkpoint; 0 for none."""
    query = select(func.max(checkpoints.c.epoch)).filter_by(project=run.project, run=run.run)
    return tx.execute(query).scalar_one() or 0


def find(tx: Tx, run: RunName, epoch: int, step: int) -> Checkpoint | None:
    """What an attempt has stored at a step, or None."""
    query = select(checkpoints).filter_by(project=run.project, run=run.run, epoch=epoch, step=step)
    row = tx.execute(query).one_or_none()
    return _checkpoint(row) if row else None


def add(tx: Tx, checkpoint: Checkpoint, content: Content) -> None:
    """Fold: a checkpoint is there."""
    add_manifest(tx, checkpoint.run.project, content)
    row = {
        "project": checkpoint.run.project,
        "run": checkpoint.run.run,
        "epoch": checkpoint.epoch,
        "step": checkpoint.step,
        "manifest": checkpoint.manifest_sha256,
        "metrics": dict(checkpoint.metrics),
        "create_time": checkpoint.create_time,
    }
    tx.execute(insert(checkpoints).values(row))


def remove(tx: Tx, name: CheckpointName) -> str:
    """Fold: a checkpoint is gone. Returns its manifest, which the caller releases; empty when it was gone before."""
    epoch, step = position(name)
    key = {"project": name.project, "run": name.run, "epoch": epoch, "step": step}
    manifest: str = tx.execute(select(checkpoints.c.manifest).filter_by(**key)).scalar_one_or_none() or ""
    tx.execute(delete(checkpoints).filter_by(**key))
    return manifest


def get(tx: Tx, name: CheckpointName) -> Checkpoint:
    """A checkpoint.

    Raises:
        CheckpointNotFound: the run has none of this name.
    """
    found = find(tx, RunName(name.project, name.run), *position(name))
    if found is None:
        raise CheckpointNotFound(f"{name} does not exist.", name=str(name))
    return found


def all_of(tx: Tx, run: RunName) -> list[Checkpoint]:
    """All checkpoints of a run, newest step first."""
    query = select(checkpoints).filter_by(project=run.project, run=run.run)
    return [
        _checkpoint(row)
        for row in tx.execute(query.order_by(checkpoints.c.step.desc(), checkpoints.c.epoch.desc()))
    ]


def page(tx: Tx, request: ListRequest, run: RunName) -> tuple[list[Checkpoint], str]:
    """One page of a run's checkpoints, newest step first, and the token of the next."""
    query = select(checkpoints).filter_by(project=run.project, run=run.run)
    by = (checkpoints.c.step, checkpoints.c.epoch)
    rows, token = Page.of(request).fetch(tx, query, by=by, descending=True)
    return [_checkpoint(row) for row in rows], token


def _checkpoint(row: Row[Any]) -> Checkpoint:
    return Checkpoint(
        run=RunName(row.project, row.run),
        epoch=row.epoch,
        step=row.step,
        manifest_sha256=row.manifest,
        metrics=row.metrics,
        create_time=row.create_time,
    )
