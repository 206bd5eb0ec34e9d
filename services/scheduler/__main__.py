"""`python -m services.scheduler`."""

import gc

from aios.runtime.app import main
from services.scheduler.app import build

# Ten thousand jobs live long: looking through all of them as often as is usual costs more than it finds.
gc.set_threshold(50_000, 20, 100)
main("scheduler", build)
