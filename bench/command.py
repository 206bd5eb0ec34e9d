"""How long a person waits for the command itself: what importing costs, and `aios --help`, beside a bare interpreter.

The least of many turns says what the code costs; the others, what else the machine does.
"""

import subprocess
import sys
import time
from collections.abc import Sequence

from bench.report import Report

TURNS = 15
IMPORT_MILLIS_MAX = 150.0
HELP_MILLIS_MAX = 300.0
COMMANDS = {
    "python": ("-c", "pass"),
    "import aios": ("-c", "import aios"),
    "import Client": ("-c", "from aios.client import Client"),
    "aios --help": ("-m", "aios.cli", "--help"),
    "aios run --help": ("-m", "aios.cli", "run", "--help"),
}


def main() -> None:
    """Run each in turn, so that all meet the same machine."""
    report = Report("command")
    least = dict.fromkeys(COMMANDS, float("inf"))
    for _ in range(TURNS):
        for name, arguments in COMMANDS.items():
            least[name] = min(least[name], took(arguments))
    bare = least["python"]
    report.figure("python_millis", bare)
    report.bar("import_aios_millis", least["import aios"] - bare, IMPORT_MILLIS_MAX)
    report.figure("import_client_millis", least["import Client"] - bare)
    report.bar("help_millis", least["aios --help"], HELP_MILLIS_MAX)
    report.figure("run_help_millis", least["aios run --help"])
    report.finish()


def took(arguments: Sequence[str]) -> float:
    """Milliseconds of one process, from its start to its end."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - began) * 1000


if __name__ == "__main__":
    main()
