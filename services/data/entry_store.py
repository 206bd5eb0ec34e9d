"""Rows of the logs as the bucket has them."""

from sqlalchemy import delete, func, insert, select

from aios.records import Page, Tx
from aios.records.pages import ListRequest
from services.data.logs import Change, Entry, Log
from services.data.tables import entries, open_logs


def next_sequence(tx: Tx, log: Log) -> int:
    """Number of the entry that comes next, as far as this index knows."""
    newest = select(func.max(entries.c.sequence)).filter_by(project=log.project, log=log.path)
    return (tx.execute(newest).scalar_one() or 0) + 1


def add_entry(tx: Tx, log: Log, entry: Entry) -> None:
    """Remember an entry that is in the bucket."""
    row = {"project": log.project, "log": log.path, "sequence": entry.sequence, "body": entry.to_json()}
    tx.execute(insert(entries).values(row))


def entries_page(tx: Tx, request: ListRequest, log: Log) -> tuple[list[Entry], str]:
    """One page of a log, newest first, and the token of the next."""
    query = select(entries).filter_by(project=log.project, log=log.path)
    rows, token = Page.of(request).fetch(tx, query, by=(entries.c.sequence,), descending=True)
    return [Entry.from_json(row.body) for row in rows], token


def has_entries(tx: Tx, log: Log) -> bool:
    """Whether a log has begun."""
    query = select(entries.c.sequence).filter_by(project=log.project, log=log.path).limit(1)
    return tx.execute(query).first() is not None


def newest(tx: Tx, log: Log, change: Change) -> Entry | None:
    """The last entry of a log that says this."""
    query = select(entries.c.body).filter_by(project=log.project, log=log.path)
    for body in tx.execute(query.order_by(entries.c.sequence.desc())).scalars():
        if body["change"] == change:
            return Entry.from_json(body)
    return None


def open_log(tx: Tx, log: Log) -> None:
    """Note that an entry may be written now: after a crash, the bucket is asked what became of it."""
    if not is_open(tx, log):
        tx.execute(insert(open_logs).values(project=log.project, log=log.path))


def close_log(tx: Tx, log: Log) -> None:
    """Everything in the bucket's log is in ours."""
    tx.execute(delete(open_logs).filter_by(project=log.project, log=log.path))


def is_open(tx: Tx, log: Log) -> bool:
    """Whether the bucket may know more of a log."""
    query = select(open_logs.c.log).filter_by(project=log.project, log=log.path)
    return tx.execute(query).one_or_none() is not None


def logs_open(tx: Tx) -> list[Log]:
    """Those of which the bucket may know more."""
    return [Log(row.project, row.log) for row in tx.execute(select(open_logs))]
