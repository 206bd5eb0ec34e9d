"""The files by which a command speaks: metrics are read as they are appended, checkpoints once nobody writes them."""

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from aios.errors import InvalidArgument
from aios.train import Run

READ_BYTES = 1 << 20  # of metrics at once, so that one that floods the file does not hold up a signal
LINE_BYTES_MAX = 64 << 10
WARNINGS_MAX = 20  # then the log is its own again
LOOK_SECONDS = 0.5  # between looks at the checkpoints
SETTLED_SECONDS = 1.0  # a folder that is written file by file is whole by then
BETWEEN_SECONDS = 5.0  # between checkpoints that are kept
_ACCESS_MODE = 0o3


class MetricsFile:
    """Lines of JSON: `step` with any numbers; `total_steps` is for the progress bar."""

    def __init__(self, path: Path, run: Run) -> None:
        self.path = path
        self.step = 0
        """The newest that was reported."""
        self.last: dict[str, float] = {}
        self._run = run
        self._total = 0
        self._lines = 0
        self._warnings = 0
        path.touch()
        self._file = path.open("rb")
        self._rest = b""

    def read(self, *, to_the_end: bool = False) -> None:
        """Report what was appended since. At the end also a last line that was not ended."""
        while True:
            piece = self._file.read(READ_BYTES)
            *lines, self._rest = (self._rest + piece).split(b"\n")
            if to_the_end and not piece and self._rest:
                lines, self._rest = [self._rest], b""
            for line in lines:
                self._lines += 1
                if line.strip():
                    self._report(line)
            if len(self._rest) > LINE_BYTES_MAX:
                self._warn(f"is longer than {LINE_BYTES_MAX} bytes")
                self._rest = b""
            if not to_the_end or not piece:
                return

    def _report(self, line: bytes) -> None:
        try:
            found = json.loads(line)
        except ValueError:
            self._warn("is no JSON")
            return
        step = found.pop("step", None) if isinstance(found, dict) else None
        if not isinstance(step, int) or isinstance(step, bool) or step < 0:
            self._warn('needs a "step" that is a whole number of 0 or more')
            return
        total = found.pop("total_steps", 0)
        if isinstance(total, int) and total > 0 and total != self._total:
            self._total = total
            self._run.progress("train", total)
        values = {
            key: float(value)
            for key, value in found.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        if len(values) < len(found):
            self._warn(
                f"has values that are no numbers: {', '.join(sorted(found.keys() - values.keys()))[:200]}"
            )
        try:
            self.take(step, values)
        except InvalidArgument as error:
            self._warn(error.message)

    def take(self, step: int, values: Mapping[str, float]) -> None:
        """Report what was measured, here or elsewhere.

        Raises:
            InvalidArgument: a name is none that a metric may have.
        """
        self._run.report(step, **values)
        self.step = max(self.step, step)
        self.last |= values

    def _warn(self, problem: str) -> None:
        self._warnings += 1
        if self._warnings <= WARNINGS_MAX:
            print(f"aios: line {self._lines} of AIOS_METRICS_FILE {problem}", file=sys.stderr, flush=True)


class CheckpointFolder:
    """What a command keeps for its next attempt.

    A folder is a checkpoint when it has been the same for a second and no process of the command has a file of it open
    for writing; writing beside and renaming is safe at any speed. Its step is the newest that was reported by then.
    """

    def __init__(self, folder: Path, run: Run, restored_step: int) -> None:
        self._folder = folder
        self._run = run
        self._step = restored_step
        self._kept = self._seen = self._content()
        self._seen_at = self._looked_at = time.monotonic()
        self._kept_at = float("-inf")

    def settled(self, leaders: Sequence[int]) -> bool:
        """Whether there is something new that nobody writes. `leaders` are the command's processes."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_SECONDS or now - self._kept_at < BETWEEN_SECONDS:
            return False
        self._looked_at = now
        content = self._content()
        if content != self._seen:
            self._seen, self._seen_at = content, now
        if not content or content == self._kept or now - self._seen_at < SETTLED_SECONDS:
            return False
        return not any(path.is_relative_to(self._folder) for leader in leaders for path in _written(leader))

    def save(self, reported_step: int) -> None:
        """Keep it, unless it changes while it is copied: then a later look will."""
        before = self._content()
        step = max(reported_step, self._step + (1 if self._kept else 0))
        try:
            with self._run.save(step) as folder:
                shutil.copytree(self._folder, folder, dirs_exist_ok=True, symlinks=True)
                if self._content() != before:
                    raise _ChangedError
        except (_ChangedError, shutil.Error, FileNotFoundError):
            return
        self._kept, self._step, self._kept_at = before, step, time.monotonic()

    def save_last(self, reported_step: int, *, whole: bool) -> None:
        """Keep what a command left. Unless it is known to be whole, what it wrote at the very last is not trusted."""
        content = self._content()
        newest = max((modified for _, modified, _ in content.values()), default=0)
        if content and content != self._kept and (whole or time.time_ns() - newest > SETTLED_SECONDS * 1e9):
            self.save(reported_step)

    def _content(self) -> Mapping[Path, tuple[int, int, int]]:
        found = {}
        for root, _, names in os.walk(self._folder):
            for name in names:
                path = Path(root, name)
                try:
                    status = path.lstat()
                except FileNotFoundError:
                    continue
                found[path] = status.st_size, status.st_mtime_ns, status.st_ino
        return found


class _ChangedError(Exception):
    """The folder changed under the copy."""


def _written(leader: int) -> Iterator[Path]:
    """The files that a process and its descendants have open for writing."""
    try:
        process = psutil.Process(leader)
        processes = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for each in processes:
        descriptors = Path(f"/proc/{each.pid}/fd")
        try:
            for descriptor in descriptors.iterdir():
                info = Path(f"/proc/{each.pid}/fdinfo/{descriptor.name}").read_text()
                flags = int(info.split("flags:", 1)[1].split()[0], 8)
                if flags & _ACCESS_MODE != os.O_RDONLY:
                    yield descriptor.readlink()
        except OSError:
            continue  # it has ended
