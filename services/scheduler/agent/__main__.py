"""`python -m services.scheduler.agent` runs the agent; with `end` it ends what a dead agent left running."""

import sys

from aios.config import Settings
from aios.runtime.app import main
from services.scheduler.agent.app import build, end

if sys.argv[1:] == ["end"]:
    end(Settings.load())
else:
    main("agent", build)
