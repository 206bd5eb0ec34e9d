"""Dynamic int8: weights as 8-bit integers in the file; activations are scaled anew at each call, by their extremes.

Needs no calibration. Good for large linear layers; convolutions mostly get slower by it, since the integer kernel for
them is not the fast one and every activation is read twice.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

from services.trainer.optimize.task import Task


def apply(source: Path, target: Path, task: Task, settings: Mapping[str, Any]) -> None:
    """Write the quantised model."""
    prepared = target.with_suffix(".prepared.onnx")
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    model = onnx.load(str(prepared))
    del model.graph.value_info[:]  # of weights that the quantiser transposes: it would refuse its own work
    onnx.save(model, str(prepared))
    quantization.quantize_dynamic(
        prepared,
        target,
        per_channel=settings["per_channel"],
        weight_type=quantization.QuantType.QUInt8,  # the integer convolution takes no signed weights
    )
    prepared.unlink()
