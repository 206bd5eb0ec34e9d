"""Rows of sources, devices, messages and windows. Plain functions of a transaction."""

import hashlib
import hmac
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Row as SqlRow
from sqlalchemy import delete, func, insert, select, update

from aios.data.v1 import ingest_pb2 as pb
from aios.names import DeviceName, IngestSourceName
from aios.records import Page, Tx
from aios.records.pages import ListRequest
from services.data.intake import mapping, sources
from services.data.intake.sources import (
    DeviceExists,
    DeviceNotFound,
    IngestSourceExists,
    IngestSourceNotFound,
    Open,
    Reason,
    Rejected,
    Row,
    Source,
)
from services.data.intake.tables import (
    ingest_dead,
    ingest_devices,
    ingest_parts,
    ingest_positions,
    ingest_rows,
    ingest_sources,
)
from services.data.mapping import stamp

DEAD_KEPT = timedelta(days=30)
DEAD_MAX = 10_000  # of one source
DEAD_DATA_BYTES = 4096
DEAD_DETAIL_CHARS = 500


@dataclass(frozen=True)
class Message:
    """What a device sent, where it lies in the stream."""

    stream: str
    sequence: int
    device: DeviceName
    data: bytes
    arrival: datetime


@dataclass(frozen=True)
class Part:
    """Rows of one window that become a version."""

    source: Source
    id: str
    start: datetime


class Held(NamedTuple):
    """A row that waits for its version, and the message that it was."""

    stream: str
    sequence: int
    device: str
    content: Row


def add_source(tx: Tx, source: Source, creator: str) -> pb.IngestSource:
    """Keep a new source.

    Raises:
        IngestSourceExists
    """
    name = source.name
    if tx.execute(select(ingest_sources.c.id).filter_by(**_key(name))).one_or_none():
        raise IngestSourceExists(f"{name} exists: choose another ingest_source_id.", name=str(name))
    row = {
        "spec": mapping.source_to_proto(source),
        "accepted": 0,
        "rejected": 0,
        "windows": 0,
        "creator": creator,
        "create_time": tx.now(),
    }
    tx.execute(insert(ingest_sources).values(_key(name) | row))
    return show_source(tx, name)


def get_source(tx: Tx, name: IngestSourceName) -> Source:
    """A source as it was stated.

    Raises:
        IngestSourceNotFound
    """
    return mapping.source_from_proto(_source(tx, name).spec, name)


def show_source(tx: Tx, name: IngestSourceName) -> pb.IngestSource:
    """A source with what it has taken in.

    Raises:
        IngestSourceNotFound
    """
    return _shown(tx, _source(tx, name))


def sources_page(tx: Tx, request: ListRequest, project: str) -> tuple[list[pb.IngestSource], str]:
    """One page of sources by name, and the token of the next."""
    query = select(ingest_sources).filter_by(project=project)
    rows, token = Page.of(request).fetch(tx, query, by=(ingest_sources.c.id,))
    return [_shown(tx, row) for row in rows], token


def delete_source(tx: Tx, name: IngestSourceName) -> None:
    """Forget a source with everything in it.

    Raises:
        IngestSourceNotFound
    """
    _source(tx, name)
    for table in (ingest_rows, ingest_parts, ingest_dead, ingest_devices):
        tx.execute(delete(table).filter_by(**_of(name)))
    tx.execute(delete(ingest_sources).filter_by(**_key(name)))


def add_device(tx: Tx, name: DeviceName, password: str) -> pb.Device:
    """Let a device in.

    Raises:
        IngestSourceNotFound, DeviceExists
    """
    source = IngestSourceName(name.project, name.ingest_source)
    _source(tx, source)
    if _device(tx, name):
        raise DeviceExists(
            f"{name} exists, and its password cannot be shown again: delete it first.", name=str(name)
        )
    row = {"id": name.device, "password_sha256": _hash(password), "create_time": tx.now()}
    tx.execute(insert(ingest_devices).values(_of(source) | row))
    return get_device(tx, name)


def get_device(tx: Tx, name: DeviceName) -> pb.Device:
    """A device without its password.

    Raises:
        DeviceNotFound
    """
    row = _device(tx, name)
    if row is None:
        raise DeviceNotFound(f"{name} does not exist: see `aios ingest device list`.", name=str(name))
    return _device_shown(row)


def devices_page(tx: Tx, request: ListRequest, name: IngestSourceName) -> tuple[list[pb.Device], str]:
    """One page of a source's devices by name, and the token of the next."""
    _source(tx, name)
    query = select(ingest_devices).filter_by(**_of(name))
    rows, token = Page.of(request).fetch(tx, query, by=(ingest_devices.c.id,))
    return [_device_shown(row) for row in rows], token


def delete_device(tx: Tx, name: DeviceName) -> None:
    """Forget a device.

    Raises:
        DeviceNotFound
    """
    get_device(tx, name)
    tx.execute(
        delete(ingest_devices).filter_by(project=name.project, source=name.ingest_source, id=name.device)
    )


def lets_in(tx: Tx, name: DeviceName, password: str) -> bool:
    """Whether this is the device's password."""
    row = _device(tx, name)
    return row is not None and hmac.compare_digest(row.password_sha256, _hash(password))


def known(tx: Tx, names: Iterable[DeviceName]) -> dict[DeviceName, datetime]:
    """When each was created, of those that exist."""
    return {name: row.create_time for name in names if (row := _device(tx, name))}


def position(tx: Tx, stream: str) -> int:
    """The last message of a stream that was taken in; 0 before the first."""
    query = select(ingest_positions.c.sequence).filter_by(stream=stream)
    found: int | None = tx.execute(query).scalar_one_or_none()
    return found or 0


def take_in(tx: Tx, stream: str, before: int, messages: Sequence[Message], last: int) -> bool:
    """Make messages rows or dead messages, and note how far the stream was read. False where somebody else did.

    Args:
        before: Where the stream was read to.
        last: Where it is read to with these messages, and others that are none of a device.
    """
    if position(tx, stream) != before:
        return False
    if before:
        moved = update(ingest_positions).filter_by(stream=stream, sequence=before).values(sequence=last)
        if tx.execute(moved).rowcount == 0:
            return False
    else:
        tx.execute(insert(ingest_positions).values(stream=stream, sequence=last))
    by_source: dict[IngestSourceName, list[Message]] = {}
    for message in messages:
        source = IngestSourceName(message.device.project, message.device.ingest_source)
        by_source.setdefault(source, []).append(message)
    for name, mine in by_source.items():
        _take_in(tx, name, mine)
    return True


def _take_in(tx: Tx, name: IngestSourceName, messages: Sequence[Message]) -> None:
    found = tx.execute(select(ingest_sources).filter_by(**_key(name))).one_or_none()
    if found is None:
        return  # deleted, and all that belonged to it
    source, newest = mapping.source_from_proto(found.spec, name), found.newest
    let_in = known(tx, {message.device for message in messages})
    rows, dead = [], []
    for message in messages:
        device, data = message.device, message.data
        place = {"stream": message.stream, "sequence": message.sequence, "device": device.device}
        kept = _of(name) | place | {"arrival": message.arrival}
        try:
            if device not in let_in:
                raise Rejected(Reason.UNKNOWN_DEVICE, f"{device.device} was deleted")
            content, time = sources.read(source, data, message.arrival)
            if newest is not None and source.time_column:
                sources.require_in_time(source, time, newest)
        except Rejected as why:
            told = {"reason": why.reason.value, "detail": why.detail[:DEAD_DETAIL_CHARS]}
            dead.append(kept | told | {"data": data[:DEAD_DATA_BYTES]})
            continue
        newest = max(time, newest) if newest else time
        encoded = json.dumps(content, separators=(",", ":")).encode()
        window = {"window_start": sources.window_of(source, time), "part": ""}
        rows.append(kept | window | {"content": encoded, "size_bytes": len(encoded)})
    for table, new in ((ingest_rows, rows), (ingest_dead, dead)):
        if new:
            tx.execute(insert(table), new)
    counts = ingest_sources.c
    now = {
        "accepted": counts.accepted + len(rows),
        "rejected": counts.rejected + len(dead),
        "newest": newest,
    }
    tx.execute(update(ingest_sources).filter_by(**_key(name)).values(now))


def has_rows(tx: Tx) -> bool:
    """Whether any row waits for its window's end."""
    return tx.execute(select(ingest_rows.c.sequence).filter_by(part="").limit(1)).first() is not None


def close_windows(tx: Tx, now: datetime, new_id: Sequence[str]) -> int:
    """Put rows into parts where their window is due. Returns how many parts were made.

    Args:
        new_id: Names for parts, at most so many are made.
    """
    mine = ingest_rows.c
    query = (
        select(
            mine.project,
            mine.source,
            mine.window_start,
            func.count().label("rows"),
            func.sum(mine.size_bytes).label("size_bytes"),
            func.max(mine.arrival).label("newest_arrival"),
        )
        .where(mine.part == "")
        .group_by(mine.project, mine.source, mine.window_start)
        .order_by(mine.window_start)
    )
    made = 0
    for found in tx.execute(query).all():
        name = IngestSourceName(found.project, found.source)
        row = _source(tx, name)
        source = mapping.source_from_proto(row.spec, name)
        window = Open(found.window_start, found.rows, found.size_bytes, found.newest_arrival)
        if made == len(new_id) or not sources.due(source, window, row.newest, now):
            continue
        _close(tx, source, window.start, new_id[made])
        made += 1
    return made


def _close(tx: Tx, source: Source, start: datetime, part: str) -> None:
    """Take the first rows of a window, up to what a part holds."""
    name, mine = source.name, ingest_rows.c
    open_rows = (
        select(mine.stream, mine.sequence, mine.size_bytes)
        .filter_by(**_of(name), part="", window_start=start)
        .order_by(mine.stream, mine.sequence)
        .limit(source.rows)
    )
    last, size = None, 0
    for row in tx.execute(open_rows).all():
        size += row.size_bytes
        if last is not None and (size > sources.WINDOW_BYTES_MAX or row.stream != last.stream):
            break
        last = row
    assert last is not None
    taken = update(ingest_rows).filter_by(**_of(name), part="", window_start=start, stream=last.stream)
    tx.execute(taken.where(mine.sequence <= last.sequence).values(part=part))
    tx.execute(insert(ingest_parts).values(_of(name) | {"id": part, "window_start": start}))


def parts(tx: Tx) -> list[Part]:
    """Parts that are to be committed, by window."""
    found = []
    for row in tx.execute(select(ingest_parts).order_by(ingest_parts.c.window_start)).all():
        source = get_source(tx, IngestSourceName(row.project, row.source))
        found.append(Part(source, row.id, row.window_start))
    return found


def rows_of(tx: Tx, part: Part) -> list[Held]:
    """A part's rows, as they came."""
    query = select(ingest_rows).filter_by(**_of(part.source.name), part=part.id)
    rows = tx.execute(query.order_by(ingest_rows.c.sequence))
    return [Held(row.stream, row.sequence, row.device, json.loads(row.content)) for row in rows]


def committed(tx: Tx, part: Part) -> None:
    """Forget the rows of a part: a version has them."""
    name = part.source.name
    gone = delete(ingest_parts).filter_by(**_of(name), id=part.id)
    if tx.execute(gone).rowcount:
        tx.execute(delete(ingest_rows).filter_by(**_of(name), part=part.id))
        mine = update(ingest_sources).filter_by(**_key(name))
        tx.execute(mine.values(windows=ingest_sources.c.windows + 1))


def dead_page(tx: Tx, request: ListRequest, name: IngestSourceName) -> tuple[list[pb.DeadMessage], str]:
    """One page of a source's dead messages, newest first, and the token of the next."""
    _source(tx, name)
    by = (ingest_dead.c.arrival, ingest_dead.c.stream, ingest_dead.c.sequence)
    query = select(ingest_dead).filter_by(**_of(name))
    rows, token = Page.of(request).fetch(tx, query, by=by, descending=True)
    return [_dead_shown(row) for row in rows], token


def forget_dead(tx: Tx, now: datetime) -> None:
    """Drop dead messages that are old, and what is beyond a source's number of them."""
    tx.execute(delete(ingest_dead).where(ingest_dead.c.arrival < now - DEAD_KEPT))
    many = (
        select(ingest_dead.c.project, ingest_dead.c.source)
        .group_by(ingest_dead.c.project, ingest_dead.c.source)
        .having(func.count() > DEAD_MAX)
    )
    for row in tx.execute(many).all():
        mine = {"project": row.project, "source": row.source}
        newest = select(ingest_dead.c.arrival).filter_by(**mine).order_by(ingest_dead.c.arrival.desc())
        last = tx.execute(newest.offset(DEAD_MAX).limit(1)).scalar_one()
        tx.execute(delete(ingest_dead).filter_by(**mine).where(ingest_dead.c.arrival <= last))


def _source(tx: Tx, name: IngestSourceName) -> SqlRow[Any]:
    row = tx.execute(select(ingest_sources).filter_by(**_key(name))).one_or_none()
    if row is None:
        raise IngestSourceNotFound(f"{name} does not exist: see `aios ingest mqtt list`.", name=str(name))
    return row


def _shown(tx: Tx, row: SqlRow[Any]) -> pb.IngestSource:
    name = IngestSourceName(row.project, row.id)
    shown = mapping.source_to_proto(mapping.source_from_proto(row.spec, name))
    shown.accepted_count, shown.rejected_count = row.accepted, row.rejected
    shown.window_count = row.windows
    shown.open_count = tx.execute(
        select(func.count()).select_from(ingest_rows).filter_by(**_of(name))
    ).scalar_one()
    shown.create_time.CopyFrom(stamp(row.create_time))
    return shown


def _device(tx: Tx, name: DeviceName) -> SqlRow[Any] | None:
    mine = {"project": name.project, "source": name.ingest_source, "id": name.device}
    return tx.execute(select(ingest_devices).filter_by(**mine)).one_or_none()


def _device_shown(row: SqlRow[Any]) -> pb.Device:
    shown = mapping.device_to_proto(DeviceName(row.project, row.source, row.id))
    shown.create_time.CopyFrom(stamp(row.create_time))
    return shown


def _dead_shown(row: SqlRow[Any]) -> pb.DeadMessage:
    return pb.DeadMessage(
        device=row.device, reason=row.reason, detail=row.detail, data=row.data, create_time=stamp(row.arrival)
    )


def _hash(password: str) -> str:
    return hashlib.sha256(password.encode()).hexdigest()


def _key(name: IngestSourceName) -> dict[str, str]:
    return {"project": name.project, "id": name.ingest_source}


def _of(name: IngestSourceName) -> dict[str, str]:
    return {"project": name.project, "source": name.ingest_source}
