"""Recipes that start from a model, and those that say where things are: on little data, and as exported."""

import json
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from google.protobuf.json_format import MessageToDict
from safetensors.torch import load_file
from sklearn import datasets
from transformers import AutoModelForCausalLM

from aios.common.v1.tensor_pb2 import Signature
from aios.train import Run
from aios.train.local import Local
from aios.trainer.v1 import run_pb2
from services.trainer import catalog
from services.trainer.recipes import embedding, lora, object_detector, segmentation
from tests.service import language_models

pytestmark = pytest.mark.timeout(300)
SIDE = 32
COLOURS = ["red", "green", "blue", "black"]
ANIMALS = ["cat", "dog", "bird", "fish"]


def train(folder: Path, recipe: str, data: dict[str, Path], **given: Any) -> dict[str, float]:
    """The final figures of a recipe's run."""
    spec = run_pb2.RunSpec(recipe=recipe, seed=1)
    spec.hyperparameters.update(catalog.hyperparameters(recipe, given))
    home = Local(folder, spec, data)
    try:
        import_module(f"services.trainer.recipes.{recipe}").train(Run(home, threading.Event(), {}))
    finally:
        home.close()
    found: dict[str, float] = json.loads((folder / "model.json").read_text())["metrics"]
    return found


def scenes(folder: Path, kind: str) -> Path:
    """Images with one bright square and one grey bar: where they are, as masks or as boxes."""
    random = np.random.default_rng(0)
    for split, count in (("train", 192), ("test", 48)):
        images = random.integers(0, 40, (count, SIDE, SIDE)).astype(np.uint8)
        masks = np.zeros((count, SIDE, SIDE), np.uint8)
        boxes = np.full((count, 3, 5), -1.0, np.float32)
        for row in range(count):
            for number, (width, height, bright) in enumerate(((8, 8, 250), (14, 5, 140))):
                left = random.integers(0, SIDE - width)
                top = number * SIDE // 2 + random.integers(0, SIDE // 2 - height)
                images[row, top : top + height, left : left + width] = bright
                masks[row, top : top + height, left : left + width] = number + 1
                boxes[row, number] = (number, left, top, left + width, top + height)
        (folder / split).mkdir(parents=True)
        np.save(folder / split / "images.npy", images)
        np.save(folder / split / f"{kind}.npy", masks if kind == "masks" else boxes)
    return folder


def based(folder: Path, model: Path, signature: Signature) -> Path:
    """A model as the run that made it would have left it."""
    model.rename(folder / "model")
    described = {"signature": MessageToDict(signature)}
    (folder / "model.json").write_text(json.dumps(described))
    return folder


def sentences(folder: Path, count: int = 96) -> Path:
    folder.mkdir()
    rows = [(f"the {COLOURS[n % 4]} {ANIMALS[n // 4 % 4]} sat", ANIMALS[n // 4 % 4]) for n in range(count)]
    content = "text,label\n" + "".join(f"{text},{label}\n" for text, label in rows)
    (folder / "train.csv").write_text(content)
    (folder / "test.csv").write_text(content)
    return folder


def test_each_pixel_gets_its_class_as_exported(tmp_path: Path) -> None:
    data = scenes(tmp_path / "data", "masks")
    found = train(
        tmp_path / "run", "segmentation", {"dir": data}, epochs=6, batch_size=16, width=8, learning_rate=0.01
    )
    assert found["mean_iou"] > 0.85
    images, masks = segmentation.load(data, "test")
    session = onnxruntime.InferenceSession(str(tmp_path / "run" / "model" / "model.onnx"))
    (logits,) = session.run(None, {"image": segmentation.scaled(images).numpy()})
    iou = segmentation.overlaps(torch.from_numpy(logits).argmax(1), masks, 3).mean()
    assert float(iou) == pytest.approx(found["mean_iou"], abs=1e-3)


def test_things_are_found_where_they_are_as_exported(tmp_path: Path) -> None:
    data = scenes(tmp_path / "data", "boxes")
    found = train(
        tmp_path / "run",
        "object_detector",
        {"dir": data},
        epochs=12,
        batch_size=16,
        width=8,
        learning_rate=0.01,
    )
    assert found["average_precision"] > 0.7
    images, boxes = object_detector.load(data, "test")
    session = onnxruntime.InferenceSession(str(tmp_path / "run" / "model" / "model.onnx"))
    (cells,) = session.run(None, {"image": object_detector.scaled(images).numpy()})
    kept = [object_detector.kept(each, 0.04, 0.5) for each in cells]
    precision = object_detector.average_precision(kept, boxes.numpy(), 2).mean()
    assert precision == pytest.approx(found["average_precision"], abs=1e-3)


def test_average_precision_counts_each_thing_once() -> None:
    true = np.array([[[0, 0, 0, 10, 10], [-1, 0, 0, 0, 0]]], np.float32)
    right, twice, wrong = [0, 0, 0, 10, 9, 0.9], [0, 1, 0, 10, 10, 0.8], [0, 20, 20, 30, 30, 0.95]
    assert object_detector.average_precision([np.array([right])], true, 1)[0] == 1.0
    assert object_detector.average_precision([np.array([right, twice])], true, 1)[0] == 1.0
    assert object_detector.average_precision([np.array([wrong, right])], true, 1)[0] == 0.5
    assert object_detector.average_precision([np.zeros((0, 6))], true, 1)[0] == 0.0


def test_a_picture_of_a_table_keeps_neighbours(tmp_path: Path) -> None:
    x, y = datasets.load_wine(return_X_y=True)
    np.savez(tmp_path / "wine.npz", x=x, y=y)
    found = train(tmp_path / "run", "tsne", {"dir": tmp_path}, perplexity=15)
    assert found["trustworthiness"] > 0.9
    assert "<circle" in (tmp_path / "run" / "outputs" / "report.html").read_text()


def test_low_rank_changes_teach_a_language_model_and_become_its_weights(tmp_path: Path) -> None:
    model = language_models.causal(tmp_path / "causal")
    base = based(tmp_path, model, language_models.GENERATES)
    found = train(
        tmp_path / "run",
        "lora",
        {"dir": sentences(tmp_path / "data"), "base": base},
        epochs=8,
        learning_rate=0.02,
        rank=4,
        length=32,
    )
    assert found["perplexity"] < 0.7 * found["perplexity_before"]
    merged: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model", local_files_only=True)
    before = load_file(base / "model" / "model.safetensors")
    after = load_file(tmp_path / "run" / "model" / "model.safetensors")
    changed = {name for name in after if name in before and not torch.equal(after[name], before[name])}
    assert changed
    assert all("_proj" in name for name in changed)
    tokenizer = language_models.tokenizer()
    held = lora.encode(tokenizer, ["the red cat sat"] * 2, 32)
    assert lora.perplexity(merged.eval(), held) < found["perplexity_before"]


def test_texts_are_packed_into_whole_blocks() -> None:
    tokenizer = language_models.tokenizer()
    texts = ["the red cat sat"] * 5
    coded = [token for text in tokenizer(texts)["input_ids"] for token in (*text, tokenizer.eos_token_id)]
    blocks = lora.packed(tokenizer, texts, 8)
    assert blocks.flatten().tolist() == coded[: len(coded) // 8 * 8]
    short = lora.packed(tokenizer, texts[:1], 32)
    assert short.shape == (1, 32)
    assert short[0, len(coded) // 5 :].eq(lora.IGNORED).all()


def test_texts_of_one_label_come_to_lie_close(tmp_path: Path) -> None:
    base = based(tmp_path, language_models.encoder(tmp_path / "encoder"), language_models.EMBEDS)
    found = train(
        tmp_path / "run",
        "embedding",
        {"dir": sentences(tmp_path / "data"), "base": base},
        epochs=6,
        learning_rate=0.005,
        length=32,
    )
    assert found["accuracy"] > max(0.9, found["accuracy_before"] - 1e-9)
    assert {"config.json", "model.safetensors"} <= {
        each.name for each in (tmp_path / "run" / "model").iterdir()
    }


def test_the_loss_of_texts_is_least_where_labels_are_apart() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    apart = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    mixed = apart[[0, 2, 1, 3]]
    assert embedding.loss(apart, labels, 0.1) < 1e-3 < embedding.loss(mixed, labels, 0.1)
    alone = torch.tensor([0, 1, 2, 3])
    assert embedding.loss(apart, alone, 0.1) == 0.0
