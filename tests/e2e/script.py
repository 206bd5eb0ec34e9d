"""A training script as people have them: scikit-learn, a file of its own for everything, nothing of the platform.

It speaks the contract of docs/training.md: data in AIOS_DATA_DIR, state in AIOS_CHECKPOINT_DIR, lines in
AIOS_METRICS_FILE, the model in AIOS_OUTPUT_DIR.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
from sklearn.linear_model import SGDClassifier

CLASSES = np.arange(10)


def main() -> None:
    accuracy = 0.0
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--fail-once-at", type=int, default=0)
    args = parser.parse_args()
    images, labels = load("train")
    test_images, test_labels = load("test")

    model = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=args.lr, random_state=0)
    state = Path(os.environ["AIOS_CHECKPOINT_DIR"], "state.npz")
    first = 1
    if state.exists():
        saved = np.load(state)
        first = int(saved["epoch"]) + 1
        model.partial_fit(images[:1], labels[:1], CLASSES)
        model.coef_, model.intercept_ = saved["coef"], saved["intercept"]
    with Path(os.environ["AIOS_METRICS_FILE"]).open("a", buffering=1) as metrics:
        for epoch in range(first, args.epochs + 1):
            model.partial_fit(images, labels, CLASSES)
            accuracy = float(model.score(test_images, test_labels))
            line = {"step": epoch, "total_steps": args.epochs, "test_accuracy": accuracy, "first": first}
            metrics.write(json.dumps(line) + "\n")
            if epoch == args.fail_once_at and first == 1:
                np.savez(state, epoch=epoch, coef=model.coef_, intercept=model.intercept_)
                metrics.write(json.dumps({"step": epoch + 1, "test_accuracy": 0.0}) + "\n")
                time.sleep(3)
                sys.exit(9)
    export(model, images.shape[1])
    print(f"accuracy {accuracy:.3f} after {args.epochs} epochs")


def load(split: str) -> tuple[np.ndarray, np.ndarray]:
    folder = Path(os.environ["AIOS_DATA_DIR"], split)
    images = np.load(folder / "images.npy")
    return images.reshape(len(images), -1).astype(np.float32) / 255, np.load(folder / "labels.npy")


def export(model: SGDClassifier, features: int) -> None:
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType

    made = to_onnx(
        model,
        initial_types=[("pixels", FloatTensorType([None, features]))],
        options={"zipmap": False, "nocl": True},
        target_opset=17,
    )
    Path(os.environ["AIOS_OUTPUT_DIR"], "model.onnx").write_bytes(made.SerializeToString())


if __name__ == "__main__":
    main()
