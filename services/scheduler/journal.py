"""A bounded log of all that plans rest on, and of what was decided: `python -m services.scheduler.replay` plans again.

Every change of the engine's snapshot is one call, so the calls in their order are the whole input. A file begins with an
empty snapshot and is complete in itself: when it is full, the pool is built anew from the records into the next one, as
after a restart. It holds names, amounts and times; no command and no environment ever reach the engine.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from google.protobuf.json_format import MessageToDict

from services.scheduler import mapping
from services.scheduler.engine import model
from services.scheduler.engine.snapshot import Snapshot
from services.scheduler.jobs import Job
from services.scheduler.nodes import Node
from services.scheduler.policies import Policy
from services.scheduler.pool import Changes, Pool
from services.scheduler.queues import Queue

FILE_BYTES_MAX = 16 * 2**20
FILES_MAX = 4
"""The oldest is removed when there would be one more: 64 MiB are some days of a busy pool."""
CALLS = (
    "put_node",
    "remove_node",
    "put_queue",
    "remove_queue",
    "remember",
    "add",
    "remove",
    "start",
    "stopping",
    "wait",
    "progress",
    "measured",
    "reported",
    "pause",
    "kind_of",
)
"""Methods of the snapshot that change it. The last is a question, which may meet a resource for the first time."""
KINDS: Mapping[str, Callable[..., Any]] = {
    kind.__name__: kind for kind in (model.Node, model.Queue, model.Job, model.Placement)
}


class Journal:
    """Files of lines, the newest at the highest number."""

    def __init__(self, folder: Path, file_bytes_max: int = FILE_BYTES_MAX) -> None:
        self._folder = folder
        self._max = file_bytes_max
        self._file: IO[str] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def full(self) -> bool:
        """Whether the next file is due."""
        return self._file is not None and self._file.tell() > self._max

    def turn(self) -> None:
        """Begin a file, and remove the oldest beyond those that are kept."""
        if self._file is not None:
            self._file.close()
        files = files_of(self._folder)
        number = int(files[-1].stem) + 1 if files else 1
        for old in files[: max(0, len(files) + 1 - FILES_MAX)]:
            old.unlink()
        self._file = (self._folder / f"{number:08d}.jsonl").open("w")

    def write(self, entry: Sequence[Any]) -> None:
        """Append a line."""
        assert self._file is not None
        self._file.write(json.dumps(entry, default=_plain, separators=(",", ":")) + "\n")

    def flush(self) -> None:
        """Hand what was written to the system; a crash of the machine may cut it."""
        assert self._file is not None
        self._file.flush()


class Recorded(Snapshot):
    """A snapshot that writes down how it is changed."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self.journal = journal


def _recorded(name: str) -> Callable[..., Any]:
    method = getattr(Snapshot, name)

    def call(self: Recorded, *args: Any, **named: Any) -> Any:
        self.journal.write([name, args, named])
        return method(self, *args, **named)

    return call


for _name in CALLS:
    setattr(Recorded, _name, _recorded(_name))


class JournalPool(Pool):
    """A pool whose inputs and decisions are written down."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal
        self._turn()

    def follow(
        self,
        jobs: Sequence[Job],
        nodes: Sequence[Node],
        now: datetime,
        queues: Sequence[Queue] = (),
        changes: Changes | None = None,
    ) -> None:
        """As the pool; first into a new file, where the present one is full."""
        if self._journal.full:
            before = self.snapshot
            super().__init__()
            self._turn()
            self.snapshot.remember(*before.remembered(now.timestamp()), now.timestamp())
            changes = None
        super().follow(jobs, nodes, now, queues, changes)

    def decide(self, policy: Policy, now: datetime, *, preempt: bool) -> model.Plan:
        """As the pool."""
        decided = super().decide(policy, now, preempt=preempt)
        asked = MessageToDict(mapping.policy_to_proto(policy))
        self._journal.write(["plan", [asked, now.timestamp(), preempt], outcome(decided)])
        self._journal.flush()
        return decided

    def _turn(self) -> None:
        self._journal.turn()
        self.snapshot = Recorded(self._journal)


def files_of(folder: Path) -> list[Path]:
    """The files of a journal, oldest first."""
    return sorted(folder.glob("*.jsonl"))


def outcome(decided: model.Plan) -> dict[str, Any]:
    """What a plan does, as it is written down and compared."""
    return {
        "starts": [
            [each.job, [list(node) for node in each.placement.nodes], each.placement.kind]
            for each in decided.starts
        ],
        "stops": list(decided.stops),
        "reservations": [[each.job, each.at] for each in decided.reservations],
    }


def read(value: Any) -> Any:
    """What was written for an argument."""
    if isinstance(value, dict) and "$" in value:
        kind = value.pop("$")
        if kind == "Placement":
            value["nodes"] = tuple((node, count) for node, count in value["nodes"])
        return KINDS[kind](**value)
    return value


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        fields = {name: getattr(value, name) for name in value.__dataclass_fields__}
        return {"$": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return dict(value)
    return value.item()  # a number of NumPy's
