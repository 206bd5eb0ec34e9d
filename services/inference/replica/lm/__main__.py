"""`python -m services.inference.replica.lm KIND DIRECTORY SOCKET`: hold a model and answer on a unix socket.

Started by the replica, beside Triton, whose `model.py` is the only client: Triton's own Python has numpy 1 and no torch.
It listens once the model has answered, and ends with its parent.

Each line either way is one JSON object. Asked: `{"id", "prompt", "parameters"}`, `{"id", "texts"}` or
`{"id", "cancel": true}`. Answered: `{"id", "text", "finish", ...}` until one has a `finish`, `{"id", "vectors",
"tokens"}`, or `{"id", "error", "wrong"}`.
"""

import os
import sys

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}

from pathlib import Path

from services.inference.replica.lm.server import serve

if __name__ == "__main__":
    _, kind, directory, socket = sys.argv
    serve(kind, Path(directory), Path(socket))
