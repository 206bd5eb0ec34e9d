"""A small convolutional network over greyscale images: each layer looks at 3x3 pixels of the one before (LeCun 1989).

Dataset: `{train,test}/images.npy` uint8 [N, H, W] and `{train,test}/labels.npy` integer [N].
Model: image FP32 [B, 1, H, W] in 0..1 → logits FP32 [B, C]. Loss: cross-entropy, −log softmax(logits)[label].
Training images are shifted by a few pixels at random, and mirrored where `mirror` says that this changes nothing.

Shapes: N samples, B batch, C classes, H height, W width.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from aios.errors import InvalidArgument
from aios.train import Run
from services.trainer.job import evaluate, loop, result

EVALUATE_BATCH = 500
GROUPS = 8


def train(run: Run) -> None:
    """Train, evaluate, export and hand over."""
    settings = loop.prepare(run)
    device = loop.device()
    with run.phase("load data"):
        images_NHW, labels_N = load(run.files(), "train")
        test_images_NHW, test_labels_N = load(run.files(), "test")
        classes = int(max(labels_N.max(), test_labels_N.max())) + 1
    size = list(images_NHW.shape[1:])
    # Statistics of a batch would mix its samples, whose gradients privacy takes one by one.
    norm = "group" if settings["dp_epsilon"] else "batch"
    model = Network(classes, size, norm=norm).to(device)

    def autocast() -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=settings["precision"] == "bfloat16")

    def loss(chosen_B: torch.Tensor) -> torch.Tensor:
        images_BHW = varied(images_NHW[chosen_B], settings["shift_pixels"], mirror=settings["mirror"])
        with autocast():
            logits_BC = model(scaled(images_BHW).to(device))
        return functional.cross_entropy(logits_BC.float(), labels_N[chosen_B].to(device))

    def logits() -> torch.Tensor:
        parts = [model(scaled(part).to(device)).cpu() for part in test_images_NHW.split(EVALUATE_BATCH)]
        return torch.cat(parts)

    spent = loop.fit(
        run,
        model,
        len(labels_N),
        loss,
        lambda: {"test_accuracy": float((logits().argmax(1) == test_labels_N).float().mean())},
    )
    names = [str(index) for index in range(classes)]
    with torch.no_grad():
        probabilities = logits().softmax(dim=1).numpy()
    evaluation = evaluate.classification(
        f"Image classifier, {run.name}", probabilities, test_labels_N.numpy(), names
    ).beside(spent)
    result.keep(
        run,
        model,
        scaled(test_images_NHW[:8]),
        evaluation,
        input_name="image",
        output_name="logits",
        labels=names,
        network={
            "recipe": "image_classifier",
            "classes": classes,
            "size": size,
            "norm": norm,
            "shift_pixels": settings["shift_pixels"],
            "mirror": settings["mirror"],
        },
    )


class Network(nn.Module):
    """Convolutions of 3x3 with pooling, then two linear layers. 28x28 and 10 classes: 459 thousand parameters.

    Args:
        size: Height and width of an image.
        channels: Of the three convolutions.
        hidden: Outputs of the first linear layer.
        norm: `batch` (Ioffe and Szegedy 2015) or `group` (Wu and He 2018).
    """

    def __init__(
        self,
        classes: int,
        size: Sequence[int],
        channels: Sequence[int] = (32, 64, 64),
        hidden: int = 128,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        height, width = size[0] // 4, size[1] // 4
        first, second, third = channels
        self.features = nn.Sequential(
            nn.Conv2d(1, first, 3, padding=1, bias=False),
            _norm(norm, first),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(first, second, 3, padding=1, bias=False),
            _norm(norm, second),
            nn.ReLU(),
            nn.Conv2d(second, third, 3, padding=1, bias=False),
            _norm(norm, third),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        self.head = nn.Sequential(
            nn.Linear(third * height * width, hidden), nn.ReLU(), nn.Dropout(0.25), nn.Linear(hidden, classes)
        )

    def forward(self, image_B1HW: torch.Tensor) -> torch.Tensor:
        logits_BC: torch.Tensor = self.head(self.features(image_B1HW))
        return logits_BC


def _norm(kind: str, width: int) -> nn.Module:
    return nn.BatchNorm2d(width) if kind == "batch" else nn.GroupNorm(math.gcd(GROUPS, width), width)


def load(folder: Path, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The images and labels of a split. Shapes: [N, H, W], [N].

    Raises:
        InvalidArgument: they are not what the recipe takes.
    """
    images, labels = (
        np.load(folder / split / f"{name}.npy", allow_pickle=False) for name in ("images", "labels")
    )
    if images.ndim != 3 or images.dtype != np.uint8:
        raise InvalidArgument.of(
            f"{split}/images.npy", f"must be uint8 [N, H, W], not {images.dtype} {images.shape}"
        )
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise InvalidArgument.of(
            f"{split}/labels.npy", f"must be {len(images)} integers, not {labels.dtype} {labels.shape}"
        )
    return torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))


def varied(images_BHW: torch.Tensor, pixels: int, *, mirror: bool) -> torch.Tensor:
    """Images to train on: shifted, and mirrored where that changes nothing."""
    images_BHW = _shifted(images_BHW, pixels)
    return _mirrored(images_BHW) if mirror else images_BHW


def scaled(images_BHW: torch.Tensor) -> torch.Tensor:
    """Images as the network takes them."""
    return images_BHW.unsqueeze(1).float() / 255


def _shifted(images_BHW: torch.Tensor, pixels: int) -> torch.Tensor:
    """Each image moved by up to `pixels` each way; what comes in at the edge is black."""
    if not pixels:
        return images_BHW
    size, height, width = images_BHW.shape
    padded = functional.pad(images_BHW, (pixels,) * 4)
    down, right = torch.randint(0, 2 * pixels + 1, (2, size, 1, 1))
    rows, columns = down + torch.arange(height).view(1, -1, 1), right + torch.arange(width).view(1, 1, -1)
    return padded[torch.arange(size).view(-1, 1, 1), rows, columns]


def _mirrored(images_BHW: torch.Tensor) -> torch.Tensor:
    """Half of the images, left for right."""
    chosen_B11 = torch.rand(len(images_BHW), 1, 1) < 0.5
    return torch.where(chosen_B11, images_BHW.flip(2), images_BHW)
