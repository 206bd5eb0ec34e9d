"""Static int8: weights and activations as 8-bit integers, x ≈ s·(q − z) (Jacob et al. 2018).

ONNX Runtime writes the scales into the file as pairs of QuantizeLinear and DequantizeLinear. A weight has one scale
an output channel (z = 0); an activation has one, from the range that calibration samples give it: its extremes, or
those that lose least by entropy or by percentile. Activations are unsigned: x86 multiplies u8 by s8 fastest.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

from services.trainer.optimize.task import Task

METHODS = {
    "minmax": quantization.CalibrationMethod.MinMax,
    "entropy": quantization.CalibrationMethod.Entropy,
    "percentile": quantization.CalibrationMethod.Percentile,
}
BATCH = 64


def apply(source: Path, target: Path, task: Task, settings: Mapping[str, Any]) -> None:
    """Write the quantised model."""
    prepared = target.with_suffix(".prepared.onnx")
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    quantization.quantize_static(
        prepared,
        target,
        _Samples(task.signature.inputs[0].name, task.calibration(settings["samples"])),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=settings["per_channel"],
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        calibrate_method=METHODS[settings["method"]],
    )
    prepared.unlink()


class _Samples(quantization.CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, name: str, samples: torch.Tensor) -> None:
        self._batches = iter([{name: part.numpy()} for part in samples.split(BATCH)])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)
