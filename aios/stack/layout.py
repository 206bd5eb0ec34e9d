"""Where things lie under `$AIOS_HOME`."""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """The paths of one home."""

    home: Path

    @property
    def lock(self) -> Path:
        """Held by the supervisor for as long as it lives."""
        return self.home / "stack.lock"

    @property
    def state(self) -> Path:
        """What the supervisor knows: ports, processes. Rewritten at each change."""
        return self.home / "stack.json"

    @property
    def orders(self) -> Path:
        """Unix socket on which the supervisor takes orders."""
        return self.home / "stack.sock"

    @property
    def secrets(self) -> Path:
        return self.home / "secrets"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    def log(self, service: str) -> Path:
        return self.logs / f"{service}.log"

    def data(self, service: str) -> Path:
        """A service's own directory."""
        return self.home / service

    def holder(self) -> int:
        """The pid that the lock's holder left in it; 0 where nobody ever held it."""
        try:
            return int(self.lock.read_text())
        except (OSError, ValueError):
            return 0

    def make(self) -> None:
        """Create the directories, closed to other users."""
        for directory in (self.home, self.secrets, self.logs):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.secrets.chmod(0o700)


def program(name: str) -> str:
    """A program of the virtual environment, else of PATH. The bare name where neither has it: the doctor tells."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name) or name
