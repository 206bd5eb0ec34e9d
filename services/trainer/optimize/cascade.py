"""A cascade: a small network answers, and the large one where it is unsure (Viola and Jones 2001; Wang et al. 2018).

The small one is a student of the large one, made as `distill` makes it. The threshold on its confidence is the lowest at
which both together lose at most `points` on the validation part. Mean cost: small + share of unsure samples · large.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aios.common.v1 import tensor_pb2
from services.trainer.job.outputs import MODEL_FILE
from services.trainer.optimize import distill, gate, pipeline
from services.trainer.optimize.networks import Net
from services.trainer.optimize.task import Task


def apply(net: Net, task: Task, settings: Mapping[str, Any], folder: Path) -> tensor_pb2.Signature:
    """Write both as one graph."""
    small = distill.apply(net, task, settings)
    threshold = gate.chosen(small.module, net.module, task.validation, settings["points"])
    parts, signature = {}, task.signature
    for name, each in (("first", small), ("rest", net)):
        signature = pipeline.export(each, task, folder)
        parts[name] = (folder / MODEL_FILE).rename(folder / f"{name}.onnx")
    gate.join(None, parts["first"], parts["rest"], threshold, folder / MODEL_FILE)
    for part in parts.values():
        part.unlink()
    print(f"  unsure below {threshold:.4f}", flush=True)
    return signature
