"""Texts as words, by the ONNX graph that a served model begins with: what is learnt from is read as what is asked.

    text BYTES [B, 1] → lower case → words and signs → their numbers in a vocabulary INT64 [B, T]

0 is nothing, 1 any word that the vocabulary lacks. Needs ONNX Runtime's `Tokenizer` (domain com.microsoft).

Shapes: N texts, B batch, T words.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

OPSET, IR = 18, 10
WORD = r"[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]"
"""In RE2's syntax: letters and digits together, every sign by itself."""
NOTHING, OTHER = 0, 1
TEXT, WORDS = "text", "words"
LENGTH_MAX = 256
"""Words of a text that anything looks at."""
_BATCH = 1_000

Array = NDArray[Any]


def split(texts: Sequence[str], length: int) -> Array:
    """The first words of every text. Array of lists, so that rows can be chosen by index. Shape: [N]."""
    nodes = _tokens()
    graph = helper.make_graph(
        nodes,
        "split",
        [_text()],
        [helper.make_tensor_value_info("tokens", TensorProto.STRING, ["batch", None])],
    )
    graph.initializer.append(_whole("flat", [-1]))
    session = onnxruntime.InferenceSession(
        model(graph).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found = np.empty(len(texts), dtype=object)
    for at in range(0, len(texts), _BATCH):
        part = np.array(texts[at : at + _BATCH], dtype=object)[:, None]
        for row, words in enumerate(session.run(None, {TEXT: part})[0], at):
            found[row] = [word for word in words if word][:length]
    return found


def front(numbers: Mapping[str, int], length: int) -> onnx.GraphProto:
    """A graph from texts to the numbers of their first `length` words, NOTHING behind short ones."""
    nodes = [
        *_tokens(),
        helper.make_node(
            "LabelEncoder",
            ["tokens"],
            ["numbered"],
            domain="ai.onnx.ml",
            keys_strings=["", *numbers],
            values_int64s=[NOTHING, *numbers.values()],
            default_int64=OTHER,
        ),
        helper.make_node("Pad", ["numbered", "pads"], ["padded"]),
        helper.make_node("Slice", ["padded", "first", "length", "second"], [WORDS]),
    ]
    out = helper.make_tensor_value_info(WORDS, TensorProto.INT64, ["batch", length])
    graph = helper.make_graph(nodes, "front", [_text()], [out])
    graph.initializer.extend(
        [
            _whole("flat", [-1]),
            _whole("pads", [0, 0, 0, length]),
            _whole("first", [0]),
            _whole("second", [1]),
            _whole("length", [length]),
        ]
    )
    return graph


def encode(words_N: Array, numbers: Mapping[str, int], length: int) -> Array:
    """What `front` gives for the same texts. Shape: [N, length]."""
    coded = np.full((len(words_N), length), NOTHING, dtype=np.int64)
    for row, words in enumerate(words_N):
        found = [numbers.get(word, OTHER) for word in words[:length]]
        coded[row, : len(found)] = found
    return coded


def model(graph: onnx.GraphProto) -> onnx.ModelProto:
    """A graph as a model, with the operators that reading needs."""
    domains = {"": OPSET, "ai.onnx.ml": 2, "com.microsoft": 1}
    imports = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=IR)


def _tokens() -> list[onnx.NodeProto]:
    return [
        helper.make_node("Reshape", [TEXT, "flat"], ["flat_text"]),
        helper.make_node(
            "StringNormalizer",
            ["flat_text"],
            ["lower"],
            case_change_action="LOWER",
            is_case_sensitive=1,
            locale="C.UTF-8",
        ),
        helper.make_node(
            "Tokenizer",
            ["lower"],
            ["tokens"],
            domain="com.microsoft",
            mark=0,
            mincharnum=1,
            pad_value="",
            tokenexp=WORD,
        ),
    ]


def _text() -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(TEXT, TensorProto.STRING, ["batch", 1])


def _whole(name: str, values: list[int]) -> onnx.TensorProto:
    return helper.make_tensor(name, TensorProto.INT64, [len(values)], values)
