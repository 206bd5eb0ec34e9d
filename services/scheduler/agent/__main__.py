"""`python -m services.scheduler.agent`."""

from aios.runtime.app import main
from services.scheduler.agent.app import build

main("agent", build)
