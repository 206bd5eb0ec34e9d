"""`python -m services.trainer.job`: train one attempt of one run, then end.

Exit codes: 0 completed, 143 stopped on request with its state saved, 1 failed (the log says why); of a command its own.
"""

import os
import sys
from importlib import import_module

from aios.errors import AiosError
from services.trainer.catalog import recipe
from services.trainer.job import command, gang


def main() -> None:
    """Train the run that this job was started for."""
    try:
        mine = gang.take(os.environ)
        with gang.join(mine) as run:
            if run.spec.command:
                sys.exit(command.train(run, mine))
            name = run.spec.recipe
            print(f"run {run.name}: recipe {name}, hyperparameters {dict(run.hparams)}", flush=True)
            recipe(name)  # one that this release has
            with run.phase("load libraries"):
                module = import_module(f"services.trainer.recipes.{name}")
            module.train(run)
    except AiosError as error:
        sys.exit(f"{error.reason}: {error.message}")


if __name__ == "__main__":
    main()
