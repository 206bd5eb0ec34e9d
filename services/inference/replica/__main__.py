"""`python -m services.inference.replica`: one replica, as a job of the scheduler."""

import sys

# httpx loads a command line of its own where it can, with all of rich: a fifth of what a replica's start computes.
sys.modules["httpx._main"] = None  # type: ignore[assignment]  # httpx takes it for not installed

from services.inference.replica.app import main  # noqa: E402

main()
