"""What every recipe hands over at its end: a model that can be served, and a report of how good it is."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from aios.common.v1 import tensor_pb2
from aios.train import Run
from services.trainer.job import card, export, plots
from services.trainer.job.evaluate import Evaluation, Figure

MAX_BATCH_SIZE = 256  # of a served model
NETWORK_FILE, WEIGHTS_FILE = "network.json", "network.safetensors"


def keep(
    run: Run,
    model: nn.Module,
    example: torch.Tensor,
    evaluation: Evaluation,
    *,
    input_name: str = "features",
    output_name: str,
    labels: Sequence[str] = (),
    files: Mapping[str, object] | None = None,
    network: Mapping[str, object] | None = None,
) -> None:
    """Export a torch model, and hand it over with its evaluation.

    Args:
        example: Some inputs; the first dimension is the batch.
        files: More of the model, by name, as JSON: a vocabulary, the names of its features.
        network: What `services.trainer.optimize.networks` builds the model from, where it can be optimised.
    """
    with run.phase("export"):
        folder = run.folder("model")
        signature = export.to_onnx(
            model,
            example,
            folder,
            input_name=input_name,
            output_name=output_name,
            labels=list(labels),
            max_batch_size=MAX_BATCH_SIZE,
        )
        for name, content in (files or {}).items():
            (folder / name).write_text(json.dumps(content, indent=1))
        if network is not None:
            save_network(folder, model, network)
    hand_over(run, folder, signature, evaluation)


def save_network(folder: Path, model: nn.Module, network: Mapping[str, object]) -> None:
    """Weights that can be trained on, and what they are the weights of."""
    (folder / NETWORK_FILE).write_text(json.dumps(network, indent=1))
    save_file(
        {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()},
        folder / WEIGHTS_FILE,
    )


def hand_over(
    run: Run,
    folder: Path | None,
    signature: tensor_pb2.Signature | None,
    evaluation: Evaluation,
    files: Mapping[str, object] | None = None,
) -> None:
    """Complete the run with a folder that holds the exported model, where there is one.

    Args:
        files: More of its outputs, by name, as JSON.
    """
    outputs = evaluation.write(run.folder("outputs"))
    for name, content in (files or {}).items():
        (outputs / name).write_text(json.dumps(content, indent=1))
    version = run.complete(folder, signature, evaluation.metrics, outputs, card=card.write(run, evaluation))
    figures = ", ".join(f"{name} {figure.value:.4f}" for name, figure in evaluation.figures.items())
    print(f"{figures}; registered as {version or 'nothing: the run names no model'}", flush=True)


def described(title: str, metrics: Mapping[str, float], *parts: str) -> Evaluation:
    """The evaluation of a model that has no truth to be compared with: figures without intervals, and plots."""
    rows = list(metrics.items())
    html = plots.page(title, plots.table(["metric", "value"], rows), *parts)
    return Evaluation({name: Figure(value, value, value) for name, value in metrics.items()}, html)
