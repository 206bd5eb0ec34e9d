"""A PyTorch Lightning script as people have them: its trainer keeps the state, and goes on from the last one."""

import argparse
from pathlib import Path

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--data", type=Path, default=Path("data"))
parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
parser.add_argument("--out", type=Path, default=Path("out"))
parser.add_argument("--epochs", type=int, default=5)
args = parser.parse_args()


class Digits(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def training_step(self, batch: list[torch.Tensor], number: int) -> torch.Tensor:
        images, labels = batch
        loss = functional.cross_entropy(self.net(images), labels)
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[torch.Tensor], number: int) -> None:
        images, labels = batch
        self.log("accuracy", (self.net(images).argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def loader(part: str, *, shuffle: bool) -> DataLoader:
    rows = np.loadtxt(args.data / f"{part}.csv", delimiter=",", skiprows=1, dtype=np.float32)
    samples = TensorDataset(torch.from_numpy(rows[:, :64] / 16), torch.from_numpy(rows[:, 64]).long())
    return DataLoader(samples, batch_size=64, shuffle=shuffle)


lightning.seed_everything(0)
trainer = lightning.Trainer(
    max_epochs=args.epochs,
    accelerator="cpu",
    logger=CSVLogger(args.out),
    callbacks=[ModelCheckpoint(dirpath=args.checkpoints, save_last=True)],
    enable_progress_bar=False,
)
trainer.fit(Digits(), loader("train", shuffle=True), loader("test", shuffle=False), ckpt_path="last")
