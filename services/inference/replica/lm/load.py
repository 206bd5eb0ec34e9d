"""Models from a directory in Hugging Face's layout: safetensors alone, and no code but the library's."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from aios.train import light
from aios.train.devices import keep_to_share

CAUSAL, EMBEDDING = "generate", "embed"


def load(kind: str, directory: Path) -> tuple[Any, Any]:
    """Model and tokenizer, on the GPU where there is one."""
    cuda = torch.cuda.is_available()
    keep_to_share()
    known: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(directory, **known)
    make: Any = AutoModelForCausalLM if kind == CAUSAL else AutoModel
    # On a GPU as the weights are stored; a CPU computes fastest in float32.
    dtype = "auto" if cuda else torch.float32
    model = make.from_pretrained(directory, use_safetensors=True, dtype=dtype, **known)
    model = model.to("cuda" if cuda else "cpu").eval()
    light.attach(model, directory)
    return model, tokenizer
