"""`python -m bench [NAME ...]`: run benchmarks one after the other and show their bars. Exit code 1 when one is missed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

HELPERS = {
    "__init__",
    "__main__",
    "code_digest",
    "fashion",
    "flood",
    "load",
    "model",
    "preempted",
    "report",
    "serving_load",
    "serving_models",
    "stack",
    "steady",
    "trainer_recipes_data",
    "trainer_recipes_kept",
    "weights",
}
NAMES = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in HELPERS)


def main(asked: list[str]) -> int:
    """Run those asked for, or all."""
    if unknown := sorted(set(asked) - set(NAMES)):
        print(f"no benchmark {', '.join(unknown)}: there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    results = {name: _run(name) for name in asked or NAMES}
    Console().print(_table(results))
    met = all(result and all(bar["ok"] for bar in result["bars"].values()) for result in results.values())
    return 0 if met else 1


def _run(name: str) -> dict[str, Any] | None:
    """Show what a benchmark says as it comes. Returns its last line; None when it failed."""
    print(f"== {name}", flush=True)
    command = [sys.executable, "-m", f"bench.{name}"]
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line
    if process.returncode:
        return None
    result: dict[str, Any] = json.loads(last)
    return result


def _table(results: dict[str, dict[str, Any] | None]) -> Table:
    table = Table("BENCH", "BAR", "VALUE", "PROMISED", "")
    for name, result in results.items():
        if result is None:
            table.add_row(name, "", "", "", "[red]failed")
            continue
        for bar, one in result["bars"].items():
            mark = "[green]ok" if one["ok"] else "[red]missed"
            promised = f">= {one['at_least']:g}" if "at_least" in one else f"<= {one['bar']:g}"
            table.add_row(name, bar, f"{one['value']:g}", promised, mark)
        if not result["bars"]:
            table.add_row(name, "[dim]figures only", "", "", "")
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
