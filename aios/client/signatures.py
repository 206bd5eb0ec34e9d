"""Signatures that need not be written by hand."""

import json
from pathlib import Path

from aios.common.v1.tensor_pb2 import Signature, TensorSpec
from aios.errors import InvalidArgument

TEXTS_MAX = 64
"""Texts that an embedding model takes at once."""

GENERATION = Signature(
    inputs=[
        TensorSpec(name="text_input", datatype="BYTES", shape=[1]),
        TensorSpec(name="sampling_parameters", datatype="BYTES", shape=[1]),
    ],
    outputs=[
        TensorSpec(name="text_output", datatype="BYTES", shape=[1]),
        TensorSpec(name="finish_reason", datatype="BYTES", shape=[1]),
        TensorSpec(name="prompt_tokens", datatype="INT32", shape=[1]),
        TensorSpec(name="completion_tokens", datatype="INT32", shape=[1]),
    ],
)
"""Of every model that generates text; `sampling_parameters` is JSON."""


def of_directory(source: Path) -> Signature:
    """Of a language model in Hugging Face's layout.

    Raises:
        InvalidArgument: it is none.
    """
    file = source / "config.json"
    try:
        config = json.loads(file.read_text())
        architectures, size = config.get("architectures") or [], config.get("hidden_size")
    except (OSError, ValueError, AttributeError):
        raise InvalidArgument.of(
            "signature", f"must be given: {source} is no language model's directory with a config.json"
        ) from None
    if any(str(each).endswith("ForCausalLM") for each in architectures):
        return GENERATION
    if not isinstance(size, int):
        raise InvalidArgument.of("source", f"{file} says neither ...ForCausalLM nor a hidden_size")
    return Signature(
        inputs=[GENERATION.inputs[0]],
        outputs=[
            TensorSpec(name="embedding", datatype="FP32", shape=[size]),
            TensorSpec(name="tokens", datatype="INT32", shape=[1]),
        ],
        max_batch_size=TEXTS_MAX,
    )
