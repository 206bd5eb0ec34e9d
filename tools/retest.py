"""Runs the tests that failed in the last `pytest` once more, alone on the machine; more than a few mean a broken build.

The suite starts whole platforms, two at a time: on a machine of two cores one of thousands of tests may run out of its
time. A test that fails again fails the build. One that passes now is named, so that it is mended and not forgotten.
"""

import json
import subprocess
import sys
from pathlib import Path

MOST = 5
"""Failures that may be a busy machine's. A change that breaks something usually breaks more."""
FAILED = Path(".pytest_cache/v/cache/lastfailed")


def main() -> int:
    """The exit code: 0 where all that failed passes now."""
    failed = sorted(json.loads(FAILED.read_text())) if FAILED.exists() else []
    if not 0 < len(failed) <= MOST:
        print(f"{len(failed)} tests failed; up to {MOST} would be tried again.", file=sys.stderr)
        return 1
    print(f"Once more, alone: {' '.join(failed)}", flush=True)
    again = subprocess.run([sys.executable, "-m", "pytest", "--last-failed", *sys.argv[1:]], check=False)
    for test in failed if again.returncode == 0 else ():
        print(f"PASSED ONLY ALONE: {test}")
    return again.returncode


if __name__ == "__main__":
    sys.exit(main())
