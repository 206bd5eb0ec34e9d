"""`python -m services.inference`: the inference service."""

from aios.runtime.app import main
from services.inference.app import build

if __name__ == "__main__":
    main("inference", build)
