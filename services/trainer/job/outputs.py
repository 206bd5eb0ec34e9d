"""The model that a command left: `model.onnx`, which says itself what it takes and gives."""

import json
from pathlib import Path

from google.protobuf.json_format import ParseDict, ParseError

from aios.common.v1 import tensor_pb2
from aios.errors import FailedPrecondition

MODEL_FILE = "model.onnx"
SIGNATURE_FILE = "signature.json"
MAX_BATCH_SIZE = 64  # of a model with a free first dimension that says nothing else
# Source: Open Inference Protocol, tensor data types, by the element types of ONNX.
_DATATYPES = {
    1: "FP32",
    2: "UINT8",
    3: "INT8",
    4: "UINT16",
    5: "INT16",
    6: "INT32",
    7: "INT64",
    8: "BYTES",
    9: "BOOL",
    10: "FP16",
    11: "FP64",
    12: "UINT32",
    13: "UINT64",
    16: "BF16",
}


class NoModel(FailedPrecondition):
    """The output folder holds no model that can be registered."""

    reason = "NO_MODEL"


def signature_of(folder: Path) -> tensor_pb2.Signature:
    """What the model in a folder takes and gives: from `signature.json` where there is one, else from the model.

    Raises:
        NoModel: there is neither, or it cannot be read.
    """
    described = folder / SIGNATURE_FILE
    if described.is_file():
        try:
            return ParseDict(json.loads(described.read_text()), tensor_pb2.Signature())
        except (ValueError, ParseError) as error:
            raise NoModel(f"{SIGNATURE_FILE} is no signature: {error}") from None
    if not (folder / MODEL_FILE).is_file():
        raise NoModel(f"AIOS_OUTPUT_DIR holds no {MODEL_FILE} (nor a {SIGNATURE_FILE}).")
    return _from_onnx(folder / MODEL_FILE)


def _from_onnx(path: Path) -> tensor_pb2.Signature:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except (DecodeError, OSError) as error:
        raise NoModel(f"{MODEL_FILE} cannot be read: {error}") from None
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    batched = all(_is_batched(value) for value in [*inputs, *graph.output])
    skip = 1 if batched else 0
    return tensor_pb2.Signature(
        inputs=[_spec(value, skip) for value in inputs],
        outputs=[_spec(value, skip) for value in graph.output],
        max_batch_size=MAX_BATCH_SIZE if batched else 0,
    )


def _is_batched(value: "onnx.ValueInfoProto") -> bool:  # type: ignore[name-defined]  # noqa: F821
    dimensions = value.type.tensor_type.shape.dim
    return bool(dimensions) and not dimensions[0].HasField("dim_value")


def _spec(value: "onnx.ValueInfoProto", skip: int) -> tensor_pb2.TensorSpec:  # type: ignore[name-defined]  # noqa: F821
    kind = value.type.tensor_type
    if kind.elem_type not in _DATATYPES:
        raise NoModel(f"{MODEL_FILE}: {value.name!r} is no tensor that can be sent.")
    dimensions = [each.dim_value if each.HasField("dim_value") else -1 for each in kind.shape.dim]
    return tensor_pb2.TensorSpec(
        name=value.name, datatype=_DATATYPES[kind.elem_type], shape=dimensions[skip:]
    )
