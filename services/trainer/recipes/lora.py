"""A small causal language model fine-tuned by low-rank changes of its weights (LoRA, Hu et al. 2021).

Every linear layer of the blocks, y = Wx, becomes y = Wx + (α/r) B A x with A [r, in] drawn at random and B [out, r] zero; W
stays as it is, and only A and B are trained (`aios.train.light`). At the end W + (α/r) B A takes W's place, so what is served
is as fast as before. Loss: −log p(token | tokens before it), the mean over all tokens. Perplexity is its exponential over the
held-out texts, each from its own beginning. Training texts are packed: laid end to end and cut into blocks of `length` tokens,
so that no token of a step is padding, however short the texts are (Raffel et al. 2020); `batch_size` and `steps` count blocks.

Dataset: a table with a column `text`. Starts from: a causal language model in Hugging Face's layout, safetensors, as
`aios model register` takes it. Model: the same, with what it takes and gives.

Shapes: N texts or blocks, B batch, T tokens.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import AutoTokenizer

from aios.errors import InvalidArgument
from aios.train import Run, light
from services.trainer.job import loop, plots, result, tables

IGNORED = -100  # a label that no loss counts: torch's own
LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
EVALUATE_BATCH = 16


def train(run: Run) -> None:
    """Train the adapters, fold them in, hand over."""
    settings = loop.prepare(run)
    with run.phase("load"):
        source, signature = run.base_model()
        tokenizer = AutoTokenizer.from_pretrained(source, **LOCAL)
        model = light.load(source)
        light.fold(model)
        learnt, held = (texts(part) for part in tables.parts(run.files(), run.seed))
        train_NT = packed(tokenizer, learnt, settings["length"])
        held_NT = encode(tokenizer, held[: settings["evaluate_texts"]], settings["length"])
    device = loop.device()
    model.to(device)
    if not light.linears(model):
        raise InvalidArgument.of("spec.base_model", "has no linear layer to adapt")
    adapters = light.Adapters(model, settings["rank"], settings["alpha"]).to(device)
    before = perplexity(model, held_NT)
    print(f"perplexity before: {before:.2f}", flush=True)
    steps = settings["steps"] * settings["batch_size"]
    loop.fit(
        run,
        adapters,
        min(steps, len(train_NT)) if steps else len(train_NT),
        lambda chosen_B: loss(model, train_NT[chosen_B], settings["precision"]),
        lambda: {"perplexity": perplexity(model, held_NT)},
    )
    figures = {"perplexity": perplexity(model, held_NT), "perplexity_before": before}
    with run.phase("export"):
        adapters.save(run.folder("outputs"))
        adapters.merge()
        folder = run.folder("model")
        ranks = light.layers_of(source).get("ranks", {})
        light.save(model.cpu(), source, folder, {"ranks": ranks} if ranks else {})
    samples = plots.table(["prompt", "goes on as"], list(continued(model, tokenizer, held_NT[:4])))
    evaluation = result.described(f"LoRA, {run.name}", figures, samples)
    result.hand_over(run, Path(folder), signature, evaluation)


def texts(table: Any) -> list[str]:
    """The column `text`.

    Raises:
        InvalidArgument: there is none.
    """
    if "text" not in table.column_names:
        raise InvalidArgument.of("dataset", f"needs a column text; it has {', '.join(table.column_names)}")
    return [str(text) for text in table["text"].to_pylist() if text]


def encode(tokenizer: Any, found: Sequence[str], length: int) -> torch.Tensor:
    """Texts as token numbers with their end, IGNORED behind short ones. Shape: [N, length]."""
    end = tokenizer.eos_token_id
    coded_NT = torch.full((len(found), length), IGNORED)
    for row, tokens in enumerate(tokenizer(list(found), truncation=True, max_length=length)["input_ids"]):
        tokens = [*tokens, end][:length]
        coded_NT[row, : len(tokens)] = torch.tensor(tokens)
    return coded_NT


def packed(tokenizer: Any, found: Sequence[str], length: int) -> torch.Tensor:
    """Texts end to end, each with its end, in blocks of `length` tokens. What fills no block is left out, unless it is all.

    Shape: [N, length].
    """
    tokens = [
        token for text in tokenizer(list(found))["input_ids"] for token in (*text, tokenizer.eos_token_id)
    ]
    blocks = len(tokens) // length
    if not blocks:
        return torch.tensor([tokens + [IGNORED] * (length - len(tokens))])
    return torch.tensor(tokens[: blocks * length]).view(blocks, length)


def loss(model: Any, texts_BT: torch.Tensor, precision: str = "float32") -> torch.Tensor:
    """The mean of −log p over the tokens of some texts, but their first."""
    with torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        total, count = _summed(model, texts_BT)
    return total / count


@torch.no_grad()
def perplexity(model: Any, texts_NT: torch.Tensor) -> float:
    """exp of the mean of −log p over all tokens of all texts."""
    found = [_summed(model, part) for part in texts_NT.split(EVALUATE_BATCH)]
    return math.exp(sum(float(total) for total, _ in found) / sum(count for _, count in found))


def continued(
    model: Any, tokenizer: Any, texts_NT: torch.Tensor, words: int = 8
) -> Iterator[tuple[str, str]]:
    """The beginnings of some texts, and how the model goes on."""
    for row_T in texts_NT:
        prompt_1T = row_T[row_T != IGNORED][:words].unsqueeze(0)
        with torch.no_grad():
            made_1T = model.generate(
                prompt_1T,
                attention_mask=torch.ones_like(prompt_1T),
                max_new_tokens=24,
                do_sample=False,
                pad_token_id=tokenizer.eos_token_id,
            )
        yield tokenizer.decode(prompt_1T[0]), tokenizer.decode(made_1T[0, words:], skip_special_tokens=True)


def _summed(model: Any, texts_BT: torch.Tensor) -> tuple[torch.Tensor, int]:
    used = int((texts_BT != IGNORED).sum(dim=1).max())
    texts_BT = texts_BT[:, : max(2, used)].to(model.device)
    real_BT = texts_BT != IGNORED
    logits_BTV = model(input_ids=texts_BT.clamp(min=0), attention_mask=real_BT.long()).logits
    total = functional.cross_entropy(
        logits_BTV[:, :-1].flatten(0, 1).float(),
        texts_BT[:, 1:].flatten(),
        ignore_index=IGNORED,
        reduction="sum",
    )
    return total, max(1, int(real_BT[:, 1:].sum()))
