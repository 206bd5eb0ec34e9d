"""A PyTorch script as people have them. It knows where its files are from its arguments, and nothing of any platform."""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

parser = argparse.ArgumentParser()
parser.add_argument("--data", type=Path, default=Path("data"))
parser.add_argument("--state", type=Path, help="Where to go on from, if it is there.")
parser.add_argument("--log", type=Path, help="A line of JSON for each epoch goes here.")
parser.add_argument("--out", type=Path, default=Path("out"))
parser.add_argument("--epochs", type=int, default=8)
parser.add_argument("--lr", type=float, default=0.01)
args = parser.parse_args()


def load(part: str) -> tuple[torch.Tensor, torch.Tensor]:
    rows = np.loadtxt(args.data / f"{part}.csv", delimiter=",", skiprows=1, dtype=np.float32)
    return torch.from_numpy(rows[:, :64] / 16), torch.from_numpy(rows[:, 64]).long()


torch.manual_seed(0)
images, labels = load("train")
test_images, test_labels = load("test")
model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
first = 0
if args.state and args.state.exists():
    saved = torch.load(args.state)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    first = saved["epoch"]
    print(f"going on after epoch {first}")

for epoch in range(first + 1, args.epochs + 1):
    for batch in torch.randperm(len(images)).split(64):
        loss = functional.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        accuracy = (model(test_images).argmax(1) == test_labels).float().mean().item()
    print(f"epoch {epoch}: loss {loss.item():.3f}, accuracy {accuracy:.3f}", flush=True)
    if args.log:
        with args.log.open("a") as log:
            log.write(json.dumps({"step": epoch, "loss": loss.item(), "accuracy": accuracy}) + "\n")
    if args.state:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
        partial = args.state.with_suffix(".partial")
        torch.save(state, partial)
        partial.rename(args.state)

args.out.mkdir(parents=True, exist_ok=True)
torch.save(model.state_dict(), args.out / "model.pt")
