"""Search our parsers for bytes that break them, guided by what those bytes reach: `python -m tests.fuzz --seconds 60`.

One process for each target, since a search does not come back. What it learns lies in a corpus, where the next one goes
on. Exits with 1 where a parser broke; the last lines then show the bytes and the trace.
"""

import argparse
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import atheris

CORPUS = Path(".fuzz")
INPUT_BYTES_MAX = 4096
RSS_MIB_MAX = 2048

OURS = ["aios", "gateway", "services"]
# Guidance is for the one process that searches.
with atheris.instrument_imports(include=OURS) if "--target" in sys.argv else nullcontext():
    from tests.fuzz.targets import SEEDS, TARGETS


def main() -> int:
    """Every target in turn, or one of them in this process."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=int, default=60, help="for all targets together")
    options.add_argument("--target", choices=TARGETS, help="this one alone, in this process")
    chosen = options.parse_args()
    if chosen.target:
        search(chosen.target, chosen.seconds)
    failed = []
    for target in TARGETS:
        command = [sys.executable, "-m", "tests.fuzz", "--target", target]
        command += ["--seconds", str(max(1, chosen.seconds // len(TARGETS)))]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        print(f"{target:14} {_summary(done.stdout)}", flush=True)
        if done.returncode:
            failed.append(target)
            print(done.stdout[-4000:])
    return 1 if failed else 0


def search(target: str, seconds: int) -> None:
    """Feed a target until the time is over; ends the process."""
    corpus = CORPUS / target
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS[target]):
        (corpus / f"seed-{number}").write_bytes(seed)
    flags = {
        "max_total_time": seconds,
        "max_len": INPUT_BYTES_MAX,
        "rss_limit_mb": RSS_MIB_MAX,
        "timeout": 10,
        "print_final_stats": 1,
        "artifact_prefix": f"{corpus}/broke-",
    }
    atheris.Setup(
        [sys.argv[0], *(f"-{key}={value}" for key, value in flags.items()), str(corpus)], TARGETS[target]
    )
    atheris.Fuzz()


def _summary(output: str) -> str:
    stats = dict(
        line.removeprefix("stat::").split(":") for line in output.splitlines() if line.startswith("stat::")
    )
    reached = [line for line in output.splitlines() if " cov: " in line]
    coverage = reached[-1].split(" cov: ")[1].split()[0] if reached else "?"
    runs, peak = (stats.get(key, "?").strip() for key in ("number_of_executed_units", "peak_rss_mb"))
    return f"{runs:>9} runs  {coverage:>5} edges  {peak:>5} MiB at most"


if __name__ == "__main__":
    sys.exit(main())
