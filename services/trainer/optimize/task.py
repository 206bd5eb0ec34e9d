"""What a classifier is judged and tuned on: the samples of a dataset as the model takes them.

A tenth of the training part is set aside by the seed: what is chosen along the way (the better of before and after
fine-tuning, the rank of a layer, the winner of a search) is chosen there, so that the test part judges the end alone.
It is set aside from the steps of a plan and not from the original, which has mostly learnt from these samples: the original
looks better on them than it is, and what is compared with it has the harder stand.

Shapes: N samples, C classes.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from aios.common.v1 import tensor_pb2
from aios.errors import FailedPrecondition
from services.trainer.job import tables
from services.trainer.job.outputs import MODEL_FILE
from services.trainer.recipes import image_classifier

VALIDATION = 0.1
EVALUATE_BATCH = 500
Array = NDArray[Any]


class NotOptimizable(FailedPrecondition):
    """The model or its dataset is of a kind that this technique cannot take."""

    reason = "NOT_OPTIMIZABLE"


@dataclass(frozen=True)
class Split:
    """Some samples, as the model takes them."""

    inputs: torch.Tensor
    """Shape: [N, ...]."""
    labels_N: torch.Tensor


@dataclass(frozen=True)
class Task:
    """What the model does, and samples of it."""

    signature: tensor_pb2.Signature
    train: Split
    validation: Split
    test: Split
    images: bool
    seed: int
    rows_N: torch.Tensor
    """Where each training sample lies in the training part of the dataset."""

    @property
    def classes(self) -> list[str]:
        """Names, by index."""
        count = int(max(self.train.labels_N.max(), self.test.labels_N.max())) + 1
        return list(self.signature.labels) or [str(index) for index in range(count)]

    def batch(self, chosen_B: torch.Tensor, network: Mapping[str, Any]) -> torch.Tensor:
        """Training inputs with these indices; images are varied as when the network was first trained."""
        inputs = self.train.inputs[chosen_B]
        if not self.images:
            return inputs
        pixels, mirror = network.get("shift_pixels", 0), network.get("mirror", False)
        return image_classifier.varied(inputs[:, 0], pixels, mirror=mirror).unsqueeze(1)

    def calibration(self, samples: int) -> torch.Tensor:
        """Some of the training inputs, always the same."""
        order = torch.randperm(len(self.train.inputs), generator=torch.Generator().manual_seed(self.seed))
        return self.train.inputs[order[:samples]]


def load(folder: Path, signature: tensor_pb2.Signature, seed: int) -> Task:
    """The task of a classifier: images, or a table whose last column is the class.

    Raises:
        NotOptimizable: the model is no classifier of one input, or the dataset is none of these.
    """
    if len(signature.inputs) != 1 or signature.inputs[0].datatype != "FP32" or not signature.max_batch_size:
        raise NotOptimizable("Only classifiers with one FP32 input and a batch dimension can be optimised.")
    images = (folder / "test" / "images.npy").is_file()
    if images:
        train, test = (_images(folder, split) for split in ("train", "test"))
    else:
        train, test = (
            Split(torch.from_numpy(part.x_ND).float(), torch.from_numpy(part.y_N))
            for part in tables.load(folder, "", classes=True, seed=seed)
        )
    wanted = list(signature.inputs[0].shape)
    if list(train.inputs.shape[1:]) != wanted:
        raise NotOptimizable(
            f"The model takes {wanted}, and the dataset holds {list(train.inputs.shape[1:])}."
        )
    order = torch.randperm(len(train.inputs), generator=torch.Generator().manual_seed(seed + 1))
    cut = max(1, round(len(order) * VALIDATION))
    held, rest = order[:cut], order[cut:]
    return Task(
        signature=signature,
        train=Split(train.inputs[rest], train.labels_N[rest]),
        validation=Split(train.inputs[held], train.labels_N[held]),
        test=test,
        images=images,
        seed=seed,
        rows_N=rest,
    )


def model_file(folder: Path) -> Path:
    """The exported model of a version: `model.onnx`, or the only one there is.

    Raises:
        NotOptimizable: it holds none.
    """
    found = folder / MODEL_FILE
    others = sorted(folder.rglob("*.onnx"))
    if not found.is_file() and len(others) == 1:
        return others[0]
    if not found.is_file():
        raise NotOptimizable(f"The model version holds no {MODEL_FILE}.")
    return found


def probabilities(answers_NC: Array) -> Array:
    """What a classifier answers as probabilities: those that are none yet are taken for logits."""
    answers = np.asarray(answers_NC, dtype=np.float64)
    if answers.min() >= 0 and np.allclose(answers.sum(axis=1), 1, atol=1e-3):
        return answers
    powers = np.exp(answers - answers.max(axis=1, keepdims=True))
    shares: Array = powers / powers.sum(axis=1, keepdims=True)
    return shares


def _images(folder: Path, split: str) -> Split:
    images_NHW, labels_N = image_classifier.load(folder, split)
    return Split(image_classifier.scaled(images_NHW), labels_N)


def logits(network: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """A network's answers, without a gradient. Shape: [N, C]."""
    network.eval()
    with torch.no_grad():
        return torch.cat([network(part) for part in inputs.split(EVALUATE_BATCH)])


def accuracy(network: torch.nn.Module, split: Split) -> float:
    """Share of samples that a network gets right."""
    return float((logits(network, split.inputs).argmax(1) == split.labels_N).float().mean())


def opened(model: Path, threads: int) -> Callable[[torch.Tensor], Array]:
    """An exported model, to be asked often: inputs to its first output. Shapes: [N, ...] to [N, C]."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def ask(inputs: torch.Tensor) -> Array:
        parts = [session.run(None, {name: part.numpy()})[0] for part in inputs.split(EVALUATE_BATCH)]
        found: Array = np.concatenate(parts)
        return found

    return ask


def answers(model: Path, inputs: torch.Tensor, threads: int) -> Array:
    """What an exported model answers to all inputs: its first output. Shape: [N, C]."""
    return opened(model, threads)(inputs)


def digest(samples: torch.Tensor) -> str:
    """What identifies a calibration set: sha256 of its values as little-endian float32."""
    return hashlib.sha256(samples.contiguous().numpy().astype("<f4").tobytes()).hexdigest()
