"""Boxes and classes of the things in a greyscale image, found by one look at it (Redmon et al. 2016; Tian et al. 2019).

Convolutions make a grid of cells, one for every 8x8 pixels. The cell that holds the middle of a thing learns to say so, what
it is, and how far its sides are: for cell middle (u, v), the sides lie at u − 8eˡ, v − 8eᵗ, u + 8eʳ, v + 8eᵇ. Loss: −log of
the probability that each cell gives to holding a middle or not, the mean over either kind of cell; and for cells that do,
cross-entropy of the class and 2(1 − IoU) of the box.
At the end boxes of one class that overlap a surer one by more than `overlap` (IoU) are dropped.
Figure: average precision at IoU 0.5, the mean over classes of the area under precision over recall (Everingham et al. 2010).

Dataset: `{train,test}/images.npy` uint8 [N, H, H], H a multiple of 8, and `{train,test}/boxes.npy` float [N, M, 5]: class,
left, top, right, bottom in pixels; class −1 where there are fewer than M. Model: image FP32 [B, 1, H, H] in 0..1 → cells FP32
[B, G, 5 + C]: left, top, right, bottom, probability of a thing, then of each class.

Shapes: N samples, B batch, C classes, H height and width, M boxes at most, G cells.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from aios.errors import InvalidArgument
from aios.train import Run
from services.trainer.job import loop, plots, result

CELL = 8
EVALUATE_BATCH = 256
LOG_MAX = 4.0  # a side is at most 8e⁴ = 437 pixels away: an early guess must not become infinite
Array = NDArray[Any]


def train(run: Run) -> None:
    """Train, evaluate, export and hand over."""
    settings = loop.prepare(run)
    device = loop.device()
    with run.phase("load data"):
        images_NHW, boxes_NM5 = load(run.files(), "train")
        test_NHW, test_boxes_NM5 = load(run.files(), "test")
        classes = int(max(boxes_NM5[..., 0].max(), test_boxes_NM5[..., 0].max())) + 1
    model = Network(classes, settings["width"]).to(device)

    def precision() -> Array:
        parts = [model(scaled(part).to(device)).cpu() for part in test_NHW.split(EVALUATE_BATCH)]
        found = [
            kept(cells.numpy(), settings["confidence"] / 10, settings["overlap"])
            for cells in torch.cat(parts)
        ]
        return average_precision(found, test_boxes_NM5.numpy(), classes)

    loop.fit(
        run,
        model,
        len(images_NHW),
        lambda chosen_B: loss(
            *model.cells(scaled(images_NHW[chosen_B]).to(device)), boxes_NM5[chosen_B].to(device)
        ),
        lambda: {"test_average_precision": float(precision().mean())},
    )
    with torch.no_grad():
        precision_C = precision()
    rows = [[str(index), f"{value:.4f}"] for index, value in enumerate(precision_C)]
    evaluation = result.described(
        f"Object detector, {run.name}",
        {"average_precision": float(precision_C.mean())},
        plots.table(["class", "average precision"], rows),
    )
    result.keep(
        run,
        model,
        scaled(test_NHW[:4]),
        evaluation,
        input_name="image",
        output_name="cells",
        files={"detector.json": {"confidence": settings["confidence"], "overlap": settings["overlap"]}},
    )


class Network(nn.Module):
    """Three halvings, then two more looks, then what each cell says."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        given = 1
        for channels, stride in ((1, 2), (2, 2), (4, 2), (4, 1), (4, 1)):
            layers += [
                nn.Conv2d(given, channels * width, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(channels * width),
                nn.ReLU(),
            ]
            given = channels * width
        self.looks = nn.Sequential(*layers)
        self.says = nn.Conv2d(given, 5 + classes, 1)

    def cells(self, image_B1HW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What cells say: box [B, G, 4], thing [B, G] and class [B, G, C], the last two as logits."""
        said = self.says(self.looks(image_B1HW))
        rows, columns = said.shape[2], said.shape[3]
        said_BGK = said.flatten(2).transpose(1, 2)
        v_GG, u_GG = torch.meshgrid(
            torch.arange(rows, device=said.device), torch.arange(columns, device=said.device), indexing="ij"
        )
        middle_G2 = (torch.stack([u_GG, v_GG], dim=2).reshape(-1, 2) + 0.5) * CELL
        away_BG4 = said_BGK[..., :4].clamp(-LOG_MAX, LOG_MAX).exp() * CELL
        box_BG4 = torch.cat([middle_G2 - away_BG4[..., :2], middle_G2 + away_BG4[..., 2:]], dim=2)
        return box_BG4, said_BGK[..., 4], said_BGK[..., 5:]

    def forward(self, image_B1HW: torch.Tensor) -> torch.Tensor:
        box_BG4, thing_BG, class_BGC = self.cells(image_B1HW)
        return torch.cat([box_BG4, thing_BG.sigmoid().unsqueeze(2), class_BGC.softmax(dim=2)], dim=2)


def loss(
    box_BG4: torch.Tensor, thing_BG: torch.Tensor, class_BGC: torch.Tensor, true_BM5: torch.Tensor
) -> torch.Tensor:
    """What the cells said, against the boxes that are there."""
    cells = thing_BG.shape[1]
    columns = round(cells**0.5)
    real_BM = true_BM5[..., 0] >= 0
    middle_BM2 = (true_BM5[..., 1:3] + true_BM5[..., 3:5]) / 2
    at_BM = (middle_BM2[..., 1] // CELL * columns + middle_BM2[..., 0] // CELL).long().clamp(0, cells - 1)
    sample_K, thing_K = real_BM.nonzero(as_tuple=True)
    cell_K = at_BM[sample_K, thing_K]
    wanted_BG = torch.zeros_like(thing_BG)
    wanted_BG[sample_K, cell_K] = 1.0
    each = functional.binary_cross_entropy_with_logits(thing_BG, wanted_BG, reduction="none")
    full, free = wanted_BG > 0, wanted_BG == 0
    total = (each * full).sum() / full.sum().clamp(min=1) + (each * free).sum() / free.sum().clamp(min=1)
    if len(sample_K):
        named = functional.cross_entropy(class_BGC[sample_K, cell_K], true_BM5[sample_K, thing_K, 0].long())
        placed = 1 - overlap(box_BG4[sample_K, cell_K], true_BM5[sample_K, thing_K, 1:]).mean()
        total = total + named + 2 * placed
    return total


def overlap(one_K4: torch.Tensor, other_K4: torch.Tensor) -> torch.Tensor:
    """IoU of boxes, pair by pair. Shape: [K]."""
    size_K2 = torch.minimum(one_K4[..., 2:], other_K4[..., 2:]) - torch.maximum(
        one_K4[..., :2], other_K4[..., :2]
    )
    both_K = size_K2.clamp(min=0).prod(dim=-1)
    areas_K = (one_K4[..., 2:] - one_K4[..., :2]).prod(dim=-1) + (other_K4[..., 2:] - other_K4[..., :2]).prod(
        dim=-1
    )
    return both_K / (areas_K - both_K).clamp(min=1e-9)


def kept(cells_GK: Array, confidence: float, most: float) -> Array:
    """The boxes of one image, surest first, without those that overlap a surer one of their class.

    Returns:
        Class, left, top, right, bottom, confidence. Shape: [K, 6].
    """
    class_G = cells_GK[:, 5:].argmax(axis=1)
    sure_G = cells_GK[:, 4] * cells_GK[:, 5:].max(axis=1)
    found: list[Array] = []
    for index in np.argsort(-sure_G):
        if sure_G[index] < confidence:
            break
        box = np.concatenate([[class_G[index]], cells_GK[index, :4], [sure_G[index]]])
        same = [each for each in found if each[0] == box[0]]
        if not same or _overlaps(box[1:5], np.stack(same)[:, 1:5]).max() <= most:
            found.append(box)
    return np.stack(found) if found else np.zeros((0, 6))


def average_precision(found: list[Array], true_NM5: Array, classes: int) -> Array:
    """Average precision of each class at IoU 0.5. Shape: [C]."""
    values = np.zeros(classes)
    for each in range(classes):
        rows = [
            (box[5], image, box[1:5]) for image, boxes in enumerate(found) for box in boxes if box[0] == each
        ]
        rows.sort(key=lambda row: -row[0])
        left = {image: [box[1:5] for box in boxes if box[0] == each] for image, boxes in enumerate(true_NM5)}
        there = sum(len(boxes) for boxes in left.values())
        hits = []
        for _, image, box in rows:
            near = _overlaps(box, np.stack(left[image])) if left[image] else np.zeros(1)
            hits.append(bool(near.max() >= 0.5))
            if hits[-1]:
                left[image].pop(int(near.argmax()))
        caught = np.cumsum(hits)
        precision = caught / np.arange(1, len(hits) + 1)
        best = np.maximum.accumulate(precision[::-1])[::-1]
        values[each] = float((best * np.diff(caught, prepend=0)).sum() / there) if there else 1.0
    return values


def load(folder: Path, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The images and boxes of a split. Shapes: [N, H, W], [N, M, 5].

    Raises:
        InvalidArgument: they are not what the recipe takes.
    """
    images, boxes = (
        np.load(folder / split / f"{name}.npy", allow_pickle=False) for name in ("images", "boxes")
    )
    if (
        images.ndim != 3
        or images.dtype != np.uint8
        or images.shape[1] != images.shape[2]
        or images.shape[1] % CELL
    ):
        raise InvalidArgument.of(
            f"{split}/images.npy",
            f"must be uint8 [N, H, H] with H a multiple of {CELL}, not {images.dtype} {images.shape}",
        )
    if boxes.ndim != 3 or boxes.shape[0] != len(images) or boxes.shape[2] != 5 or boxes.dtype.kind != "f":
        raise InvalidArgument.of(
            f"{split}/boxes.npy", f"must be float [{len(images)}, M, 5], not {boxes.dtype} {boxes.shape}"
        )
    return torch.from_numpy(images), torch.from_numpy(boxes.astype(np.float32))


def scaled(images_BHW: torch.Tensor) -> torch.Tensor:
    """Images as the network takes them."""
    return images_BHW.unsqueeze(1).float() / 255


def _overlaps(box_4: Array, boxes_K4: Array) -> Array:
    one, other = (
        torch.from_numpy(np.broadcast_to(box_4, boxes_K4.shape).copy()),
        torch.from_numpy(boxes_K4.copy()),
    )
    return overlap(one, other).numpy()
