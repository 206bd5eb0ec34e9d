"""An MLflow script as people have them: softmax regression by numpy, everything logged with MLflow's client."""

import argparse
from pathlib import Path

import mlflow
import numpy as np

parser = argparse.ArgumentParser()
parser.add_argument("--data", type=Path, default=Path("data"))
parser.add_argument("--lr", type=float, default=0.5)
parser.add_argument("--epochs", type=int, default=20)
args = parser.parse_args()

train, test = (np.loadtxt(args.data / f"{part}.csv", delimiter=",", skiprows=1) for part in ("train", "test"))
images, labels = train[:, :64] / 16, train[:, 64].astype(int)
weights = np.zeros((64, 10))

mlflow.set_experiment("digits")
with mlflow.start_run(run_name="softmax"):
    mlflow.log_params({"lr": args.lr, "epochs": args.epochs})
    for epoch in range(1, args.epochs + 1):
        scores = np.exp(images @ weights)
        chances = scores / scores.sum(axis=1, keepdims=True)
        loss = -np.log(chances[np.arange(len(labels)), labels]).mean()
        chances[np.arange(len(labels)), labels] -= 1
        weights -= args.lr * images.T @ chances / len(labels)
        mlflow.log_metric("loss", loss, step=epoch)
    accuracy = np.mean((test[:, :64] / 16 @ weights).argmax(axis=1) == test[:, 64])
    mlflow.log_metric("accuracy", accuracy, step=args.epochs)
    mlflow.log_text("\n".join(" ".join(f"{each:.3f}" for each in row) for row in weights), "weights.txt")
