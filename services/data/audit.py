"""Who read and who changed data, and who was refused. Rows can only be added; they are copied to the bucket within
seconds, so that they outlive the index, and leave both when their time is over.
"""

import asyncio
import json
import logging
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, insert, select, update

from aios.blobs import Blobs
from aios.data.v1 import privacy_service_pb2 as pb
from aios.errors import InvalidArgument
from aios.names import project_of
from aios.records import Database, Page, Tx
from aios.runtime.audit import Heard
from aios.runtime.clock import Clock
from services.data import layout, mapping
from services.data.tables import audit

READS = frozenset(
    ["downloads.list", "transforms.get_key", "label_tasks.lease", "audit.list", "dead_messages.list"]
)
"""Permissions of methods that give data away, or a key to it."""
CHANGES = frozenset(
    [
        *("datasets.create", "datasets.commit", "datasets.delete", "datasets.erase"),
        *("models.create", "models.register", "models.alias", "models.delete"),
        *("checkpoints.create", "checkpoints.delete", "transforms.create"),
        *("label_projects.create", "label_projects.delete", "data.encrypt", "data.reindex"),
        *("ingest_sources.create", "ingest_sources.delete", "devices.create", "devices.delete"),
        *("edge_devices.create", "edge_devices.delete", "edge_bundles.create"),
    ]
)
REFUSALS = frozenset(["UNAUTHENTICATED", "PERMISSION_DENIED"])
WAITING_MAX = 10_000  # refusals that wait to be written: a flood of them takes no more memory than this
ROWS_AT_ONCE = 500
ARCHIVE_SECONDS = 10.0
ARCHIVED_AT_ONCE = 10_000
TEXT_CHARS = 255

_log = logging.getLogger(__name__)
Row = dict[str, Any]


class Audit:
    """Keeps account of calls. `run` it, and `close` it before the database.

    Args:
        kept_for: How long rows and their copies are kept.
    """

    def __init__(self, db: Database, blobs: Blobs, clock: Clock, kept_for: timedelta) -> None:
        self._db = db
        self._blobs = blobs
        self._clock = clock
        self._kept_for = kept_for
        self._waiting: list[tuple[Row, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Write what is waiting."""
        while self._writing is not None:
            await self._writing

    async def hear(self, heard: Heard) -> None:
        """Keep a call that is to be kept. Who was let in has an answer only once that is written.

        Raises:
            Unavailable: it cannot be written now.
        """
        refused = is_refusal(heard)
        if not refused and not (heard.code == "OK" and heard.permission in READS | CHANGES):
            return
        if refused and len(self._waiting) >= WAITING_MAX:
            _log.warning("more calls are refused than can be kept account of")
            return
        written = asyncio.get_running_loop().create_future()
        self._waiting.append((_row(heard, self._clock.now()), written))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        if refused:
            written.add_done_callback(lambda done: done.exception())
        else:
            await asyncio.shield(written)

    async def run(self) -> None:
        """Copy rows to the bucket, and drop what is too old. Runs until cancelled."""
        while True:
            await self.archive_once()
            await self.forget_once()
            await asyncio.sleep(ARCHIVE_SECONDS)

    async def archive_once(self) -> None:
        """Copy the rows that the bucket lacks."""
        query = select(audit).filter_by(archived=False).order_by(audit.c.id).limit(ARCHIVED_AT_ONCE)
        rows = await self._db.read(lambda tx: [dict(row._mapping) for row in tx.execute(query)])
        if not rows:
            return
        ids = [row["id"] for row in rows]
        # The same rows have the same key: a copy whose mark was lost in a crash is made once.
        await self._blobs.put_if_absent(layout.audit(ids[0], ids[-1]), _encoded(rows))

        def mark(tx: Tx) -> None:
            for some in _batches(ids):
                tx.execute(update(audit).where(audit.c.id.in_(some)).values(archived=True))

        await self._db.write(mark)

    async def forget_once(self) -> None:
        """Drop what is older than is kept, here and in the bucket."""
        oldest = _id(self._clock.now() - self._kept_for, "")
        await self._db.write(lambda tx: tx.execute(delete(audit).where(audit.c.id < oldest)))
        for entry in await self._blobs.entries(layout.AUDIT, ROWS_AT_ONCE):
            if layout.audited(entry.key)[1] >= oldest:
                return
            await self._blobs.delete(entry.key)

    async def restore(self) -> int:
        """Rows that the bucket has and the index lacks, after it was lost. Returns how many the bucket has."""
        total = 0
        for entry in await self._blobs.entries(layout.AUDIT):
            stored = await self._blobs.get(entry.key)
            rows = [_decoded(line) for line in stored.splitlines()]
            await self._db.write(lambda tx, rows=rows: _add_missing(tx, rows))  # type: ignore[misc]
            total += len(rows)
        return total

    async def _write(self) -> None:
        try:
            while self._waiting:
                some, self._waiting = self._waiting[:ROWS_AT_ONCE], self._waiting[ROWS_AT_ONCE:]
                rows = [row for row, _ in some]
                problem: BaseException | None = None
                try:
                    await self._db.write(lambda tx, rows=rows: tx.execute(insert(audit), rows))  # type: ignore[misc]
                except Exception as error:  # noqa: BLE001 - whatever it is, the callers are told
                    problem = error
                for _, written in some:
                    with suppress(asyncio.InvalidStateError):
                        written.set_exception(problem) if problem else written.set_result(None)
        finally:
            self._writing = None


def is_refusal(heard: Heard) -> bool:
    """Whether somebody wanted what is not theirs: another project's resources do not exist for them."""
    caller = heard.principal
    elsewhere = (
        heard.code == "NOT_FOUND"
        and caller is not None
        and not caller.everywhere
        and project_of(heard.resource) not in (None, caller.project)
    )
    return heard.code in REFUSALS or elsewhere


def entries_page(
    tx: Tx, request: pb.ListAuditEntriesRequest, project: str
) -> tuple[list[pb.AuditEntry], str]:
    """One page of a project's account, newest first, and the token of the next."""
    query = select(audit).filter_by(project=project)
    if request.subject:
        query = query.filter_by(subject=request.subject)
    if request.resource:
        if "%" in request.resource or "_" in request.resource:
            raise InvalidArgument.of("resource", "must be the name of a resource")
        below = audit.c.resource.like(f"{request.resource}/%")
        query = query.where((audit.c.resource == request.resource) | below)
    if request.denied:
        query = query.where(audit.c.code != "OK")
    rows, token = Page.of(request).fetch(tx, query, by=(audit.c.id,), descending=True)
    return [_to_proto(dict(row._mapping)) for row in rows], token


def _to_proto(row: Mapping[str, Any]) -> pb.AuditEntry:
    return pb.AuditEntry(
        time=mapping.stamp(row["time"]),
        subject=row["subject"],
        role=row["role"],
        project=row["caller_project"],
        token_id=row["token_id"],
        method=row["method"],
        resource=row["resource"],
        code=row["code"],
        reason=row["reason"],
        source=row["source"],
    )


def _row(heard: Heard, now: datetime) -> Row:
    caller = heard.principal
    return {
        "id": _id(now, secrets.token_hex(4)),
        # Whose data it is: the project's admins see who knocks, too.
        "project": _known(project_of(heard.resource)) or (caller.project if caller else ""),
        "time": now,
        "subject": caller.subject[:TEXT_CHARS] if caller else "",
        "role": caller.role if caller else "",
        "caller_project": caller.project if caller else "",
        "token_id": caller.token_id[:TEXT_CHARS] if caller else "",
        "method": heard.method.removeprefix("/")[:TEXT_CHARS],
        "resource": heard.resource[:TEXT_CHARS],
        "code": heard.code,
        "reason": heard.reason[:63],
        "source": heard.source[:63],
        "archived": False,
    }


def _known(project: str | None) -> str:
    return project if project and len(project) <= 63 else ""


def _id(time: datetime, nonce: str) -> str:
    """Sorted as time is."""
    return f"{time.strftime('%Y%m%dT%H%M%S%f')}{nonce}"


def _encoded(rows: Sequence[Row]) -> bytes:
    lines = ({**row, "time": row["time"].isoformat()} for row in rows)
    return b"".join(json.dumps(line, sort_keys=True).encode() + b"\n" for line in lines)


def _decoded(line: bytes) -> Row:
    row: Row = json.loads(line)
    return {**row, "time": datetime.fromisoformat(row["time"]), "archived": True}


def _add_missing(tx: Tx, rows: Sequence[Row]) -> None:
    for some in _batches(rows):
        ids = [row["id"] for row in some]
        known = set(tx.execute(select(audit.c.id).where(audit.c.id.in_(ids))).scalars())
        if new := [row for row in some if row["id"] not in known]:
            tx.execute(insert(audit), new)


def _batches(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[start : start + ROWS_AT_ONCE] for start in range(0, len(items), ROWS_AT_ONCE)]
