"""`python -m services.data`."""

from aios.runtime.app import main
from services.data.app import build

main("data", build)
