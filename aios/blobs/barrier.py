"""What an object store of this machine has taken is on disk before we say so: SeaweedFS leaves that to the kernel."""

import ctypes
import os
import threading
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)


class Barrier:
    """Writes out the file system that a folder lies on. Callers that wait together share one write-out.

    SeaweedFS can sync its volumes at each write, but neither their indexes nor its table of names. All of them have
    been handed to the kernel when it answers, so one `syncfs` behind the answer covers them.

    Args:
        folder: None where the store is another machine's, and its promise its own.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._begun = 0
        self._done = 0

    def sync(self) -> None:
        """Return once everything that was written before the call is on disk.

        Raises:
            OSError: some of it could not be written.
        """
        if self._folder is None:
            return
        # One that is under way may have begun before our write.
        wanted = self._begun + 1
        with self._lock:
            if self._done >= wanted:
                return
            self._begun += 1
            _syncfs(self._folder)
            self._done = self._begun


def _syncfs(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _libc.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(descriptor)
