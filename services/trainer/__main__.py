"""`python -m services.trainer`: the trainer service."""

from aios.runtime.app import main
from services.trainer.app import build

if __name__ == "__main__":
    main("trainer", build)
