"""Language models of a few thousand weights: random, but whole, with a tokenizer and a chat template."""

import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from aios.common.v1.tensor_pb2 import Signature
from services.inference.replica.language import GENERATION
from tests.service.replica_platform import signature

TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
GENERATES: Signature = signature(
    {each.name: (each.datatype, each.shape) for each in GENERATION.inputs},
    {each.name: (each.datatype, each.shape) for each in GENERATION.outputs},
    0,
)
EMBEDS: Signature = signature(
    {"text_input": ("BYTES", [1])}, {"embedding": ("FP32", [16]), "tokens": ("INT32", [1])}, 8
)


def tokenizer() -> PreTrainedTokenizerFast:
    """Of bytes: every text is a sequence of them, and nothing is unknown."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate(["<end>", *symbols])}
    made = Tokenizer(models.BPE(vocabulary, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    found = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>", pad_token="<end>")  # type: ignore[no-untyped-call]
    found.chat_template = TEMPLATE
    return found


def causal(directory: Path) -> Path:
    """A Llama that generates bytes."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=257, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, eos_token_id=0, bos_token_id=0, pad_token_id=0,
        initializer_range=0.3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer().save_pretrained(directory)
    return directory


def encoder(directory: Path) -> Path:
    """A BERT whose vectors have 16 numbers."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=257, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=128,
    )  # fmt: skip
    BertModel(config).save_pretrained(directory)
    tokenizer().save_pretrained(directory)
    return directory


def files(make: object) -> dict[str, bytes]:
    """The files of a model, by path."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = make(Path(scratch))  # type: ignore[operator]
        return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}
