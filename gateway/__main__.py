"""`python -m gateway`: serve until SIGTERM."""

from aios.runtime.app import main
from gateway.app import build

if __name__ == "__main__":
    main("gateway", build)
