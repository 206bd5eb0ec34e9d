"""`python -m services.scheduler`."""

from aios.runtime.app import main
from services.scheduler.app import build

main("scheduler", build)
