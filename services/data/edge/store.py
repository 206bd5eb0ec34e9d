"""Rows of edge devices, what is signed for them, and what they answered. Plain functions of a transaction."""

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, insert, select, update

from aios.data.v1 import edge_pb2 as pb
from aios.errors import NotFound
from aios.names import EdgeDeviceName, ModelVersionName
from aios.records import Page, Tx
from aios.records.pages import ListRequest
from services.data import model_store
from services.data.edge.devices import (
    Ask,
    EdgeDeviceExists,
    EdgeDeviceNotFound,
    Report,
    user_of,
)
from services.data.edge.tables import edge_bundles, edge_devices, edge_figures
from services.data.mapping import stamp


@dataclass(frozen=True)
class Bundle:
    """A signed model version."""

    version: ModelVersionName
    manifest: bytes
    signature: bytes
    public_key: bytes
    file_sha256: str
    size_bytes: int


def add_device(tx: Tx, name: EdgeDeviceName, follows: ModelVersionName, password: str) -> pb.EdgeDevice:
    """Let a device in.

    Raises:
        EdgeDeviceExists
    """
    if _row(tx, name):
        raise EdgeDeviceExists(
            f"{name} exists, and its password cannot be shown again: delete it first.", name=str(name)
        )
    new = {"follows": str(follows), "running": "", "problem": "", "stream": "", "sequence": 0}
    made = {"password_sha256": _hash(password), "create_time": tx.now()}
    tx.execute(insert(edge_devices).values(_key(name) | new | made))
    return get_device(tx, name)


def get_device(tx: Tx, name: EdgeDeviceName) -> pb.EdgeDevice:
    """A device without its password.

    Raises:
        EdgeDeviceNotFound
    """
    return _shown(tx, _require(tx, name))


def devices_page(tx: Tx, request: ListRequest, project: str) -> tuple[list[pb.EdgeDevice], str]:
    """One page of a project's devices by name, and the token of the next."""
    query = select(edge_devices).filter_by(project=project)
    rows, token = Page.of(request).fetch(tx, query, by=(edge_devices.c.id,))
    return [_shown(tx, row) for row in rows], token


def delete_device(tx: Tx, name: EdgeDeviceName) -> None:
    """Forget a device and what it answered.

    Raises:
        EdgeDeviceNotFound
    """
    _require(tx, name)
    tx.execute(delete(edge_figures).filter_by(project=name.project, device=name.edge_device))
    tx.execute(delete(edge_devices).filter_by(**_key(name)))


def lets_in(tx: Tx, name: EdgeDeviceName, password: str) -> bool:
    """Whether this is the device's password."""
    row = _row(tx, name)
    return row is not None and hmac.compare_digest(row.password_sha256, _hash(password))


def known(tx: Tx, names: Iterable[EdgeDeviceName]) -> dict[EdgeDeviceName, datetime]:
    """When each was created, of those that exist."""
    return {name: row.create_time for name in names if (row := _row(tx, name))}


def keep_bundle(tx: Tx, bundle: Bundle) -> pb.EdgeBundle:
    """Keep a signed version, in place of an earlier signature of it."""
    number = {**_version_key(bundle.version)}
    tx.execute(delete(edge_bundles).filter_by(**number))
    content = {
        "manifest": bundle.manifest,
        "signature": bundle.signature,
        "public_key": bundle.public_key,
        "file_sha256": bundle.file_sha256,
        "size_bytes": bundle.size_bytes,
        "create_time": tx.now(),
    }
    tx.execute(insert(edge_bundles).values(number | content))
    return pb.EdgeBundle(
        manifest=bundle.manifest,
        signature=bundle.signature,
        public_key=bundle.public_key,
        model_version=str(bundle.version),
        create_time=stamp(tx.now()),
    )


def wanted(tx: Tx, name: EdgeDeviceName) -> Bundle | None:
    """What a device should run: the version that it follows, once that is signed.

    Raises:
        EdgeDeviceNotFound
    """
    return _wanted(tx, _require(tx, name).follows)


def everybodys(tx: Tx) -> dict[EdgeDeviceName, tuple[str, str]]:
    """What each device should run, by version and signature."""
    found: dict[str, tuple[str, str]] = {}
    devices: dict[EdgeDeviceName, tuple[str, str]] = {}
    columns = edge_devices.c
    for row in tx.execute(select(columns.project, columns.id, columns.follows)).all():
        if row.follows not in found:
            bundle = _wanted(tx, row.follows)
            found[row.follows] = (str(bundle.version), bundle.signature.hex()) if bundle else ("", "")
        devices[EdgeDeviceName(row.project, row.id)] = found[row.follows]
    return devices


def seen(tx: Tx, name: EdgeDeviceName, said: Ask) -> None:
    """Note what a device says of itself."""
    now = {"running": said.running, "problem": said.problem, "seen_time": tx.now()}
    tx.execute(update(edge_devices).filter_by(**_key(name)).values(now))


def take_in(tx: Tx, name: EdgeDeviceName, report: Report) -> int:
    """Add up what a device answered, each record once. Returns how far its stream was taken in.

    What it says of a version that nobody signed for devices is passed over: figures have no rows that it makes up.

    Raises:
        EdgeDeviceNotFound
    """
    row = _require(tx, name)
    place = row.sequence if row.stream == report.stream else 0
    for record in report.records:
        if record.sequence <= place:
            continue
        place = record.sequence
        key = {"project": name.project, "device": name.edge_device, "version": record.version}
        more = {each: getattr(record, each) for each in ("requests", "errors", "predictions", "micros")}
        added = {each: edge_figures.c[each] + value for each, value in more.items()}
        counted = tx.execute(update(edge_figures).filter_by(**key).values(added)).rowcount
        if not counted and _signed(tx, name.project, record.version):
            tx.execute(insert(edge_figures).values(key | more))
    now = {"stream": report.stream, "sequence": place, "seen_time": tx.now()}
    tx.execute(update(edge_devices).filter_by(**_key(name)).values(now))
    return int(place)


def _signed(tx: Tx, project: str, version: str) -> bool:
    """Whether a version of this project was ever signed."""
    if not ModelVersionName.matches(version):
        return False
    name = ModelVersionName.parse(version)
    query = select(edge_bundles.c.number).filter_by(project=project, model=name.model)
    return name.project == project and name.version in map(str, tx.execute(query).scalars())


def _wanted(tx: Tx, follows: str) -> Bundle | None:
    try:
        version = model_store.get_version(tx, ModelVersionName.parse(follows))
    except NotFound:  # no such alias yet, or no more
        return None
    row = tx.execute(select(edge_bundles).filter_by(**_version_key(version.name))).one_or_none()
    if row is None or version.rejected:
        return None
    return Bundle(version.name, row.manifest, row.signature, row.public_key, row.file_sha256, row.size_bytes)


def _shown(tx: Tx, row: Row[Any]) -> pb.EdgeDevice:
    name = EdgeDeviceName(row.project, row.id)
    bundle = _wanted(tx, row.follows)
    query = select(edge_figures).filter_by(project=row.project, device=row.id)
    shown = pb.EdgeDevice(
        name=str(name),
        follows=row.follows,
        user=user_of(name),
        wanted_version=str(bundle.version) if bundle else "",
        running_version=row.running,
        problem=row.problem,
        figures=[
            pb.EdgeFigures(
                model_version=each.version,
                requests=each.requests,
                errors=each.errors,
                predictions=each.predictions,
                seconds=each.micros / 1e6,
            )
            for each in tx.execute(query.order_by(edge_figures.c.version))
        ],
        create_time=stamp(row.create_time),
    )
    if row.seen_time:
        shown.seen_time.CopyFrom(stamp(row.seen_time))
    return shown


def _row(tx: Tx, name: EdgeDeviceName) -> Row[Any] | None:
    return tx.execute(select(edge_devices).filter_by(**_key(name))).one_or_none()


def _require(tx: Tx, name: EdgeDeviceName) -> Row[Any]:
    row = _row(tx, name)
    if row is None:
        raise EdgeDeviceNotFound(f"{name} does not exist: see `aios edge device list`.", name=str(name))
    return row


def _key(name: EdgeDeviceName) -> dict[str, str]:
    return {"project": name.project, "id": name.edge_device}


def _version_key(name: ModelVersionName) -> dict[str, Any]:
    return {"project": name.project, "model": name.model, "number": int(name.version)}


def _hash(password: str) -> str:
    return hashlib.sha256(password.encode()).hexdigest()
