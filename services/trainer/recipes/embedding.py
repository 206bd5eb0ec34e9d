"""An embedding model fine-tuned so that texts of one label lie close (supervised contrastive, Khosla et al. 2020).

A text's vector z is the mean of the model's last layer over its tokens, with length 1. For each text i of a batch, with P(i) the
others of its label: −1/|P(i)| Σ_p log(exp(z_i·z_p / τ) / Σ_{a≠i} exp(z_i·z_a / τ)); the loss is the mean over the texts that
have others of their label. Figures: the share of held-out texts whose nearest middle of a label (the mean vector of its
training texts) is their own, before and after.

Dataset: a table with columns `text` and `label`. Starts from: an embedding model in Hugging Face's layout, safetensors, as
`aios model register` takes it. Model: the same, with what it takes and gives.

Shapes: N texts, B batch, T tokens, D size of a vector, C labels.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer

from aios.errors import InvalidArgument
from aios.train import Run
from services.trainer.job import loop, result, tables

LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
EVALUATE_BATCH = 64
WEIGHTS_FILE = "model.safetensors"


def train(run: Run) -> None:
    """Train, evaluate, hand over."""
    settings = loop.prepare(run)
    with run.phase("load"):
        source, signature = run.base_model()
        tokenizer = AutoTokenizer.from_pretrained(source, **LOCAL)
        model: Any = AutoModel.from_pretrained(source, use_safetensors=True, dtype=torch.float32, **LOCAL)
        train_table, test_table = tables.parts(run.files(), run.seed)
        texts, labels = columns(train_table)
        held_texts, held_labels = columns(test_table)
    device = loop.device()
    model.to(device).eval()
    names = {name: number for number, name in enumerate(sorted({*labels, *held_labels}))}
    y_N, held_N = (torch.tensor([names[each] for each in some]) for some in (labels, held_labels))
    looked_at = slice(settings["evaluate_texts"])

    def vectors(some: Sequence[str]) -> torch.Tensor:
        return embedded(model, tokenizer, some, settings["length"])

    @torch.no_grad()
    def accuracy() -> float:
        known, asked = (
            torch.cat(
                [vectors(some[at : at + EVALUATE_BATCH]).cpu() for at in range(0, len(some), EVALUATE_BATCH)]
            )
            for some in (texts[looked_at], held_texts[looked_at])
        )
        return nearest(known, y_N[looked_at], asked, held_N[looked_at], len(names))

    before = accuracy()
    print(f"accuracy of the nearest middle before: {before:.4f}", flush=True)
    steps = settings["steps"] * settings["batch_size"]
    loop.fit(
        run,
        model,
        min(steps, len(texts)) if steps else len(texts),
        lambda chosen_B: loss(
            vectors([texts[index] for index in chosen_B.tolist()]),
            y_N[chosen_B].to(device),
            settings["temperature"],
        ),
        lambda: {"test_accuracy": accuracy()},
    )
    figures = {"accuracy": accuracy(), "accuracy_before": before}
    with run.phase("export"):
        folder = run.folder("model")
        for file in source.iterdir():
            if file.suffix != ".safetensors" and file.is_file():
                shutil.copy(file, folder)
        save_model(model.cpu(), str(folder / WEIGHTS_FILE), metadata={"format": "pt"})
    result.hand_over(run, Path(folder), signature, result.described(f"Embedding, {run.name}", figures))


def embedded(model: Any, tokenizer: Any, texts: Sequence[str], length: int) -> torch.Tensor:
    """Texts as vectors of length 1. Shape: [B, D]."""
    coded = tokenizer(list(texts), truncation=True, max_length=length, padding=True, return_tensors="pt")
    coded = {name: value.to(model.device) for name, value in coded.items()}
    real_BT1 = coded["attention_mask"].unsqueeze(2)
    last_BTD = model(**coded).last_hidden_state
    return functional.normalize((last_BTD * real_BT1).sum(dim=1) / real_BT1.sum(dim=1), dim=1)


def loss(z_BD: torch.Tensor, y_B: torch.Tensor, temperature: float) -> torch.Tensor:
    """How far texts of one label are from each other, against all others."""
    self_BB = torch.eye(len(y_B), dtype=torch.bool, device=z_BD.device)
    alike_BB = (z_BD @ z_BD.T / temperature).masked_fill(self_BB, float("-inf"))
    log_p_BB = alike_BB - alike_BB.logsumexp(dim=1, keepdim=True)
    same_BB = (y_B.unsqueeze(0) == y_B.unsqueeze(1)) & ~self_BB
    count_B = same_BB.sum(dim=1)
    each_B = -log_p_BB.masked_fill(~same_BB, 0.0).sum(dim=1) / count_B.clamp(min=1)
    return (each_B * (count_B > 0)).sum() / (count_B > 0).sum().clamp(min=1)


def nearest(
    known_ND: torch.Tensor, y_N: torch.Tensor, asked_ND: torch.Tensor, wanted_N: torch.Tensor, classes: int
) -> float:
    """The share of texts whose nearest middle of a label is their own."""
    sums_CD = torch.zeros(classes, known_ND.shape[1]).index_add(0, y_N, known_ND)
    found_N = (asked_ND @ functional.normalize(sums_CD, dim=1).T).argmax(dim=1)
    return float((found_N == wanted_N).float().mean())


def columns(table: Any) -> tuple[list[str], list[str]]:
    """The columns `text` and `label`.

    Raises:
        InvalidArgument: one is missing.
    """
    missing = {"text", "label"} - set(table.column_names)
    if missing:
        raise InvalidArgument.of(
            "dataset", f"needs columns text and label; it has {', '.join(table.column_names)}"
        )
    rows = zip(table["text"].to_pylist(), table["label"].to_pylist(), strict=True)
    kept = [(str(text), str(label)) for text, label in rows if text]
    return [text for text, _ in kept], [label for _, label in kept]
