"""What the text file `MLmodel` says of a logged model: enough to serve it where it is ONNX. Pure.

Source: mlflow.org/docs, "MLflow Model": YAML with `flavors` and a `signature` of JSON texts.
"""

import json
from collections.abc import Mapping
from typing import Any

import yaml

from aios.common.v1 import tensor_pb2

FILE = "MLmodel"
BYTES_MAX = 1 << 20  # a page or two, with an example of its input
BATCH_MAX = 64
"""As of every model with a free first dimension."""
SERVED_FILE = "model.onnx"
_TYPES = {
    "bool": "BOOL",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "str": "BYTES",
    "object": "BYTES",
    **{f"{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


def read(text: bytes) -> Mapping[str, Any]:
    """The file's content; nothing where it is not readable."""
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def flavors(said: Mapping[str, Any]) -> list[str]:
    """Libraries that can open it, such as `sklearn`; the generic one left out."""
    found = said.get("flavors")
    return sorted(str(each) for each in found if each != "python_function") if isinstance(found, dict) else []


def signature(said: Mapping[str, Any]) -> tensor_pb2.Signature | None:
    """What a model server is told; None for what it could not run, or what does not say its tensors.

    Only ONNX is: everything else is a pickle or needs its library, and is opened by its user alone.
    """
    flavor = said.get("flavors", {}).get("onnx") if isinstance(said.get("flavors"), dict) else None
    stated = said.get("signature")
    if not isinstance(flavor, dict) or flavor.get("data") != SERVED_FILE or not isinstance(stated, dict):
        return None
    try:
        inputs, outputs = (_tensors(json.loads(stated.get(kind) or "[]")) for kind in ("inputs", "outputs"))
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    if not inputs or not outputs:
        return None
    batched = all(shape and shape[0] == -1 for _, _, shape in (*inputs, *outputs))
    made = tensor_pb2.Signature(max_batch_size=BATCH_MAX if batched else 0)
    for found, named in ((inputs, made.inputs), (outputs, made.outputs)):
        for name, datatype, shape in found:
            named.add(name=name, datatype=datatype, shape=shape[1:] if batched else shape)
    return made


def _tensors(stated: list[dict[str, Any]]) -> list[tuple[str, str, list[int]]]:
    """Name, datatype and shape of each; a column has neither and is a KeyError."""
    return [
        (
            str(each["name"]),
            _TYPES[each["tensor-spec"]["dtype"]],
            [int(size) for size in each["tensor-spec"]["shape"]],
        )
        for each in stated
    ]
