"""What paths of artifacts mean, in SQL."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, func, insert, or_, select, update

from aios.errors import InvalidArgument
from aios.names import RunName
from aios.records import Tx
from services.trainer.tables import artifact_roots, artifacts
from services.trainer.tracking import store
from services.trainer.tracking.paths import ArtifactNotFound, Kind, Place, place

FILES_MAX = 10_000  # of one root: the version that they become lists them in one message


@dataclass(frozen=True)
class File:
    """One artifact."""

    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Root:
    """What is known of a root's version."""

    project: str
    root: str
    version: str
    """Empty before the first."""
    sealed: bool
    """The version holds what there is."""


def put(tx: Tx, project: str, place: Place, sha256: str, size: int, now: datetime) -> None:
    """Let a path mean some content.

    Raises:
        InvalidArgument: a file lies where it needs a folder, or the other way round, or there are too many.
    """
    mine = (artifacts.c.project == project) & (artifacts.c.root == place.root)
    folders = [place.path[:at] for at, each in enumerate(place.path) if each == "/"]
    inside = artifacts.c.path.startswith(f"{place.path}/", autoescape=True)
    clash = select(artifacts.c.path).where(mine, or_(artifacts.c.path.in_(folders), inside)).limit(1)
    if tx.execute(clash).first() is not None:
        raise InvalidArgument.of("path", "would be a file and a folder at once")
    if tx.execute(select(func.count()).where(mine)).scalar_one() >= FILES_MAX:
        raise InvalidArgument.of("path", f"a run has at most {FILES_MAX} artifacts: pack small ones together")
    tx.execute(delete(artifacts).where(mine, artifacts.c.path == place.path))
    tx.execute(
        insert(artifacts).values(
            project=project, root=place.root, path=place.path, sha256=sha256, size_bytes=size
        )
    )
    _touch(tx, project, place.root, now)


def remove(tx: Tx, project: str, place: Place, now: datetime) -> None:
    """Forget a file, or a folder.

    Raises:
        ArtifactNotFound: nothing is there.
    """
    mine = [artifacts.c.project == project, artifacts.c.root == place.root]
    if place.path:
        inside = artifacts.c.path.startswith(f"{place.path}/", autoescape=True)
        mine.append(or_(artifacts.c.path == place.path, inside))
    if tx.execute(delete(artifacts).where(*mine)).rowcount == 0:
        raise ArtifactNotFound(f"Nothing lies at {place.uri}.")
    _touch(tx, project, place.root, now)


def files(tx: Tx, project: str, root: str) -> list[File]:
    """Every file of a root, by path."""
    query = select(artifacts).where(artifacts.c.project == project, artifacts.c.root == root)
    return [
        File(row.path, row.sha256, row.size_bytes) for row in tx.execute(query.order_by(artifacts.c.path))
    ]


def root(tx: Tx, project: str, name: str) -> Root | None:
    """What is known of a root; None where nothing was ever put."""
    query = select(artifact_roots).where(artifact_roots.c.project == project, artifact_roots.c.root == name)
    row = tx.execute(query).one_or_none()
    return None if row is None else Root(project, name, row.version, row.sealed)


def root_of(tx: Tx, run: RunName) -> Root | None:
    """The root of what a run has logged; None where it never did."""
    wanted = Place(Kind.RUN, store.get(tx, run).experiment, run.run)
    return root(tx, run.project, wanted.root)


def unsealed(tx: Tx, before: datetime) -> list[Root]:
    """Roots whose files are no version yet, and have not changed since a time."""
    query = select(artifact_roots).where(
        artifact_roots.c.sealed.is_(False), artifact_roots.c.change_time < before
    )
    return [Root(row.project, row.root, row.version, row.sealed) for row in tx.execute(query.limit(100))]


def seal(tx: Tx, found: Root, held: list[File], version: str) -> bool:
    """Remember the version that holds a root's files. False when they have changed meanwhile."""
    mine = (artifact_roots.c.project == found.project) & (artifact_roots.c.root == found.root)
    same = files(tx, found.project, found.root) == held
    tx.execute(update(artifact_roots).where(mine).values(version=version, sealed=same))
    return same


def join(tx: Tx, found: Root, more: list[File], now: datetime) -> list[File]:
    """Let a root hold more files; returns all of them. A path that both name means what it meant.

    Raises:
        InvalidArgument: a file lies where it needs a folder.
    """
    known = {each.path for each in files(tx, found.project, found.root)}
    for each in more:
        if each.path not in known:
            put(tx, found.project, place(f"{found.root}/{each.path}"), each.sha256, each.size_bytes, now)
    return files(tx, found.project, found.root)


def _touch(tx: Tx, project: str, name: str, now: datetime) -> None:
    mine = (artifact_roots.c.project == project) & (artifact_roots.c.root == name)
    if tx.execute(update(artifact_roots).where(mine).values(sealed=False, change_time=now)).rowcount == 0:
        tx.execute(
            insert(artifact_roots).values(
                project=project, root=name, version="", sealed=False, change_time=now
            )
        )
