"""A small convolutional network over greyscale images.

Dataset: `{train,test}/images.npy` uint8 [N, H, W] and `{train,test}/labels.npy` integer [N].
Model: image FP32 [B, 1, H, W] in 0..1 → logits FP32 [B, C]. Loss: cross-entropy, −log softmax(logits)[label].
Training images are shifted by a few pixels at random, since handwriting is nowhere twice.

Shapes: N samples, B batch, C classes, H height, W width.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from aios.errors import InvalidArgument
from aios.runtime import telemetry
from aios.train import Run
from services.trainer.job import checkpoint, data, export, optimizers

MAX_BATCH_SIZE = 256  # of the served model: 800 KB of 28x28 images a request
EVALUATE_BATCH = 500
CHECKPOINTS_PER_RUN = 4  # where the run does not say


def train(run: Run) -> None:
    """Train, evaluate, export and hand over."""
    settings = run.hparams
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(run.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    with run.phase("load data"):
        images_NHW, labels_N = _load(run.dataset(), "train")
        test_images_NHW, test_labels_N = _load(run.dataset(), "test")
        classes = int(max(labels_N.max(), test_labels_N.max())) + 1

    model = Network(classes, images_NHW.shape[1:]).to(device)
    optimizer = optimizers.make(
        settings["optimizer"], model.parameters(), settings["learning_rate"], settings["weight_decay"]
    )
    epochs, batch_size = settings["epochs"], settings["batch_size"]
    per_epoch = data.steps_per_epoch(len(labels_N), batch_size)
    total = epochs * per_epoch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=settings["learning_rate"], total_steps=total, cycle_momentum=False
    )
    first_step = _restore(run, model, optimizer, schedule)
    save_every = run.checkpoint_steps or max(1, total // CHECKPOINTS_PER_RUN)

    with run.phase("train", total):
        for step, epoch, chosen_B in data.batches(len(labels_N), batch_size, epochs, run.seed, first_step):
            model.train()
            batch_B1HW = _scaled(_shifted(images_NHW[chosen_B], settings["shift_pixels"])).to(device)
            loss = functional.cross_entropy(model(batch_B1HW), labels_N[chosen_B].to(device))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            if step % 10 == 0 or step == total:
                run.report(step, loss=loss.item(), learning_rate=float(schedule.get_last_lr()[0]))
            if step % per_epoch == 0:
                with telemetry.span("evaluate", attributes={"aios.epoch": epoch}):
                    accuracy = _accuracy(model, test_images_NHW, test_labels_N, device)
                run.report(step, test_accuracy=accuracy)
                print(
                    f"epoch {epoch}/{epochs}: loss {loss.item():.4f}, test accuracy {accuracy:.4f}",
                    flush=True,
                )
            stopping = run.should_stop()
            if (stopping or step % save_every == 0) and step < total:
                _save(run, step, model, optimizer, schedule)
            if stopping:
                run.leave()

    accuracy = _accuracy(model, test_images_NHW, test_labels_N, device)
    with run.phase("export"):
        folder = run.folder("model")
        signature = export.to_onnx(
            model,
            _scaled(test_images_NHW[:8]),
            folder,
            input_name="image",
            output_name="logits",
            labels=[str(index) for index in range(classes)],
            max_batch_size=MAX_BATCH_SIZE,
        )
    version = run.complete(folder, signature, {"test_accuracy": accuracy})
    print(
        f"test accuracy {accuracy:.4f}; registered as {version or 'nothing: the run names no model'}",
        flush=True,
    )


class Network(nn.Module):
    """Two convolutions of 3x3 with pooling, then two linear layers. 28x28 and 10 classes: 421,642 parameters."""

    def __init__(self, classes: int, size: torch.Size) -> None:
        super().__init__()
        height, width = size[0] // 4, size[1] // 4
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        self.head = nn.Sequential(
            nn.Linear(64 * height * width, 128), nn.ReLU(), nn.Dropout(0.25), nn.Linear(128, classes)
        )

    def forward(self, image_B1HW: torch.Tensor) -> torch.Tensor:
        logits_BC: torch.Tensor = self.head(self.features(image_B1HW))
        return logits_BC


def _load(folder: Path, split: str) -> tuple[torch.Tensor, torch.Tensor]:
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


def _scaled(images_BHW: torch.Tensor) -> torch.Tensor:
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


@torch.no_grad()
def _accuracy(
    model: nn.Module, images_NHW: torch.Tensor, labels_N: torch.Tensor, device: torch.device
) -> float:
    model.eval()
    right = 0
    for start in range(0, len(labels_N), EVALUATE_BATCH):
        part = slice(start, start + EVALUATE_BATCH)
        guesses_B = model(_scaled(images_NHW[part]).to(device)).argmax(1).cpu()
        right += int((guesses_B == labels_N[part]).sum())
    return right / len(labels_N)


def _save(
    run: Run,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    with run.save(step) as folder:
        checkpoint.save(folder, model, optimizer, step=step)


def _restore(
    run: Run,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> int:
    """The step to go on after; 0 from the start."""
    found = run.restore()
    if found is None:
        return 0
    checkpoint.load(found.folder, model, optimizer)
    for _ in range(found.step):  # the schedule is a function of the step alone
        schedule.step()
    print(f"restored step {found.step}", flush=True)
    return found.step
