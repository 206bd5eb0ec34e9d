"""Early exit: a small head in the middle of the network answers where it is sure (Teerapittayanon et al., BranchyNet,
2016; Kaya et al. 2019). The rest of the network runs on the other samples alone.

The network itself stays as it is: only the head is trained, on what the layers before it say. The threshold on its
confidence is the lowest at which both together lose at most `points` on the validation part.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from aios.common.v1 import tensor_pb2
from services.trainer.job import export
from services.trainer.job.outputs import MODEL_FILE
from services.trainer.job.result import MAX_BATCH_SIZE
from services.trainer.optimize import gate, networks
from services.trainer.optimize.fine_tune import fit
from services.trainer.optimize.networks import Net
from services.trainer.optimize.pipeline import EXPORT_SAMPLES
from services.trainer.optimize.task import Task

CUTS = {1: 4, 2: 7}
"""Where the convolutions that come first end, by how many they are: indices of the network's `features`."""


class Exit(nn.Module):
    """The network up to its early head."""

    def __init__(self, trunk: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.trunk, self.head = trunk.eval().requires_grad_(requires_grad=False), head

    def train(self, mode: bool = True) -> "Exit":
        """The head alone: the network before it stays as it is."""
        self.head.train(mode)
        return self

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Shape: [B, C]."""
        logits: torch.Tensor = self.head(self.trunk(inputs))
        return logits


def apply(net: Net, task: Task, settings: Mapping[str, Any], folder: Path) -> tensor_pb2.Signature:
    """Write trunk, head and rest as one graph."""
    networks.plain(net, "early_exit")
    torch.manual_seed(task.seed)
    cut, whole = CUTS[int(settings["after"])], net.copy().module.eval()
    features: nn.Sequential = whole.get_submodule("features")  # type: ignore[assignment]
    rest = nn.Sequential(features[cut:], whole.get_submodule("head"))
    example = task.train.inputs[:EXPORT_SAMPLES]
    with torch.no_grad():
        middle = features[:cut](example)
    width = nn.Flatten()(nn.MaxPool2d(2)(middle)).shape[1]
    head = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(width, net.description["classes"]))
    early = Exit(features[:cut], head)
    fit(
        Net(early, net.description),
        task,
        settings,
        lambda _, logits, labels: functional.cross_entropy(logits, labels),
    )
    threshold = gate.chosen(early, whole, task.validation, settings["points"])
    wanted = task.signature
    stages = {"trunk": (features[:cut], example), "first": (head, middle), "rest": (rest, middle)}
    parts, signature = {}, wanted
    for name, (module, inputs) in stages.items():
        signature = export.to_onnx(
            module.requires_grad_(requires_grad=False),
            inputs,
            folder,
            input_name=wanted.inputs[0].name,
            output_name=wanted.outputs[0].name,
            labels=list(wanted.labels),
            max_batch_size=wanted.max_batch_size or MAX_BATCH_SIZE,
        )
        parts[name] = (folder / MODEL_FILE).rename(folder / f"{name}.onnx")
    gate.join(parts["trunk"], parts["first"], parts["rest"], threshold, folder / MODEL_FILE)
    for part in parts.values():
        part.unlink()
    print(f"  unsure below {threshold:.4f}", flush=True)
    signature.inputs[0].CopyFrom(wanted.inputs[0])
    return signature
