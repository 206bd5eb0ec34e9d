"""A class for every pixel of a greyscale image: a small U-Net (Ronneberger, Fischer and Brox 2015).

Going down, each level looks at 3x3 pixels twice and halves the image; going up, each doubles it and looks again, beside what
the level had seen on the way down. Loss: cross-entropy of every pixel, −log softmax(logits)[class], plus 1 − Dice, with
Dice = (2 Σ p·y + 1) / (Σ p + Σ y + 1) over the pixels of a batch, the mean over classes (Milletari et al. 2016).
Figures: pixel accuracy, and the mean over classes of IoU = |predicted ∩ true| / |predicted ∪ true|.

Dataset: `{train,test}/images.npy` uint8 [N, H, W], H and W multiples of 4, and `{train,test}/masks.npy` uint8 [N, H, W] with the
class of each pixel, 0 for background. Model: image FP32 [B, 1, H, W] in 0..1 → logits FP32 [B, C, H, W].

Shapes: N samples, B batch, C classes, H height, W width.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from aios.errors import InvalidArgument
from aios.train import Run
from services.trainer.job import loop, plots, result

EVALUATE_BATCH = 256


def train(run: Run) -> None:
    """Train, evaluate, export and hand over."""
    settings = loop.prepare(run)
    device = loop.device()
    with run.phase("load data"):
        images_NHW, masks_NHW = load(run.files(), "train")
        test_NHW, test_masks_NHW = load(run.files(), "test")
        classes = int(max(masks_NHW.max(), test_masks_NHW.max())) + 1
    model = Network(classes, settings["width"]).to(device)

    def predicted() -> torch.Tensor:
        parts = [model(scaled(part).to(device)).argmax(1).cpu() for part in test_NHW.split(EVALUATE_BATCH)]
        return torch.cat(parts)

    loop.fit(
        run,
        model,
        len(images_NHW),
        lambda chosen_B: loss(model(scaled(images_NHW[chosen_B]).to(device)), masks_NHW[chosen_B].to(device)),
        lambda: {"test_mean_iou": float(overlaps(predicted(), test_masks_NHW, classes).mean())},
    )
    with torch.no_grad():
        found_NHW = predicted()
    iou_C = overlaps(found_NHW, test_masks_NHW, classes)
    figures = {
        "mean_iou": float(iou_C.mean()),
        "pixel_accuracy": float((found_NHW == test_masks_NHW).float().mean()),
    }
    rows = [[str(index), f"{value:.4f}"] for index, value in enumerate(iou_C.tolist())]
    evaluation = result.described(f"Segmentation, {run.name}", figures, plots.table(["class", "IoU"], rows))
    result.keep(run, model, scaled(test_NHW[:4]), evaluation, input_name="image", output_name="logits")


class Network(nn.Module):
    """Two levels down, two up."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.first, self.second = _looks(1, width), _looks(width, 2 * width)
        self.bottom = _looks(2 * width, 4 * width)
        self.up_second = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.again_second = _looks(4 * width, 2 * width)
        self.up_first = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.again_first = _looks(2 * width, width)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, image_B1HW: torch.Tensor) -> torch.Tensor:
        first = self.first(image_B1HW)
        second = self.second(functional.max_pool2d(first, 2))
        bottom = self.bottom(functional.max_pool2d(second, 2))
        up = self.again_second(torch.cat([self.up_second(bottom), second], dim=1))
        logits_BCHW: torch.Tensor = self.head(self.again_first(torch.cat([self.up_first(up), first], dim=1)))
        return logits_BCHW


def loss(logits_BCHW: torch.Tensor, masks_BHW: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the pixels, and 1 − Dice of the classes."""
    p_BCHW = logits_BCHW.softmax(dim=1)
    y_BCHW = functional.one_hot(masks_BHW, logits_BCHW.shape[1]).permute(0, 3, 1, 2)
    both_C = (p_BCHW * y_BCHW).sum(dim=(0, 2, 3))
    all_C = p_BCHW.sum(dim=(0, 2, 3)) + y_BCHW.sum(dim=(0, 2, 3))
    dice_C = (2 * both_C + 1) / (all_C + 1)
    return functional.cross_entropy(logits_BCHW, masks_BHW) + 1 - dice_C.mean()


def overlaps(found_NHW: torch.Tensor, true_NHW: torch.Tensor, classes: int) -> torch.Tensor:
    """IoU of each class; 1 for one that is neither found nor there. Shape: [C]."""
    values = []
    for each in range(classes):
        found, true = found_NHW == each, true_NHW == each
        union = (found | true).sum()
        values.append((found & true).sum() / union if union else torch.tensor(1.0))
    return torch.stack(values)


def load(folder: Path, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The images and masks of a split. Shapes: [N, H, W] each.

    Raises:
        InvalidArgument: they are not what the recipe takes.
    """
    images, masks = (
        np.load(folder / split / f"{name}.npy", allow_pickle=False) for name in ("images", "masks")
    )
    if images.ndim != 3 or images.dtype != np.uint8 or images.shape[1] % 4 or images.shape[2] % 4:
        raise InvalidArgument.of(
            f"{split}/images.npy",
            f"must be uint8 [N, H, W] with H and W multiples of 4, not {images.dtype} {images.shape}",
        )
    if masks.shape != images.shape or masks.dtype != np.uint8:
        raise InvalidArgument.of(
            f"{split}/masks.npy", f"must be uint8 {images.shape}, not {masks.dtype} {masks.shape}"
        )
    return torch.from_numpy(images), torch.from_numpy(masks.astype(np.int64))


def scaled(images_BHW: torch.Tensor) -> torch.Tensor:
    """Images as the network takes them."""
    return images_BHW.unsqueeze(1).float() / 255


def _looks(given: int, width: int) -> nn.Sequential:
    """Two convolutions of 3x3."""
    layers: list[nn.Module] = []
    for channels in (given, width):
        layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers)
