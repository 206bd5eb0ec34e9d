"""`python -m services.scheduler.replay FILE`: feed a journal's inputs to the engine again, and compare what it decides.

Exit code 0 where every plan comes out as it was written down, 1 with the first that does not.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from google.protobuf.json_format import ParseDict

from aios.scheduler.v1 import policy_pb2
from services.scheduler import mapping
from services.scheduler.journal import CALLS, files_of, outcome, read
from services.scheduler.pool import Pool


@dataclass(frozen=True)
class Replayed:
    """What a replay came to.

    Attributes:
        differs: The first plan that came out otherwise, for people; empty where none did.
    """

    inputs: int
    plans: int
    differs: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Replay a file, or the newest of a folder."""
    parser = argparse.ArgumentParser(prog="replay", description="Plan again from a journal, and compare.")
    parser.add_argument("file", type=Path, help="a file of the journal, or its folder for the newest")
    asked = parser.parse_args(arguments)
    found = replay(files_of(asked.file)[-1] if asked.file.is_dir() else asked.file)
    print(json.dumps({"inputs": found.inputs, "plans": found.plans, "same": not found.differs}))
    if found.differs:
        print(found.differs, file=sys.stderr)
    return int(bool(found.differs))


def replay(file: Path) -> Replayed:
    """Everything that a file says, in order."""
    pool, inputs, plans = Pool(), 0, 0
    for name, args, said in _entries(file):
        if name in CALLS:
            getattr(pool.snapshot, name)(*map(read, args), **said)
            inputs += 1
            continue
        asked, at, preempt = args
        policy = mapping.policy_from_proto(ParseDict(asked, policy_pb2.Policy()))
        now = datetime.fromtimestamp(at, UTC)
        made = json.loads(json.dumps(outcome(pool.decide(policy, now, preempt=preempt))))
        plans += 1
        if made != said:
            differs = f"plan {plans}, at {now.isoformat()}: decided {said}, now {made}"
            return Replayed(inputs, plans, differs)
    return Replayed(inputs, plans)


def _entries(file: Path) -> Iterator[list[Any]]:
    with file.open() as lines:
        for line in lines:
            # The last line may have been cut where the machine stopped.
            if line.endswith("\n"):
                yield json.loads(line)


if __name__ == "__main__":
    sys.exit(main())
