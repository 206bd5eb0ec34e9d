"""A trained model as ONNX, checked against the framework that trained it."""

import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from aios.common.v1 import tensor_pb2
from aios.errors import FailedPrecondition
from services.trainer.job.outputs import MODEL_FILE

TOLERANCE = 1e-4  # largest absolute difference of a logit; float32 sums in another order differ by about 1e-6
_DATATYPES = {torch.float32: "FP32", torch.int64: "INT64", torch.uint8: "UINT8"}


class ExportDiffers(FailedPrecondition):
    """The exported model answers otherwise than the trained one."""

    reason = "EXPORT_DIFFERS"


def to_onnx(
    model: nn.Module,
    example: torch.Tensor,
    folder: Path,
    *,
    input_name: str,
    output_name: str,
    labels: list[str],
    max_batch_size: int,
    tolerance: float = TOLERANCE,
) -> tensor_pb2.Signature:
    """Write `model.onnx` with a free batch dimension, and say what it takes and gives.

    Args:
        example: A batch, first dimension the batch; the export is compared on it.
        tolerance: Largest absolute difference of an output.

    Raises:
        ExportDiffers: an output differs by more.
    """
    model.eval()  # of a captured graph it answers with nothing
    model = model.cpu()
    example = example.cpu()
    path = folder / MODEL_FILE
    batch = torch.export.Dim("batch", min=1, max=max_batch_size)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of libraries that nothing here needs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of the exporter about its own code
        program = torch.onnx.export(
            model,
            (example,),
            input_names=[input_name],
            output_names=[output_name],
            dynamic_shapes=({0: batch},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(str(path), external_data=False)
    with torch.no_grad():
        expected = model(example)
    _compare(path, input_name, example, expected, tolerance)
    return tensor_pb2.Signature(
        inputs=[_spec(input_name, example)],
        outputs=[_spec(output_name, expected)],
        max_batch_size=max_batch_size,
        labels=labels,
    )


def _compare(
    path: Path, input_name: str, example: torch.Tensor, expected: torch.Tensor, tolerance: float
) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {input_name: example.numpy()})
    difference = float(np.abs(got - expected.numpy()).max())
    if not difference <= tolerance:
        raise ExportDiffers(f"An exported output differs from the trained model's by {difference:.2g}.")


def _spec(name: str, tensor: torch.Tensor) -> tensor_pb2.TensorSpec:
    return tensor_pb2.TensorSpec(name=name, datatype=_DATATYPES[tensor.dtype], shape=tensor.shape[1:])
