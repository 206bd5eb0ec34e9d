"""Half precision: weights and arithmetic as IEEE 754 binary16, inputs and outputs as they were.

Half the bytes, about three decimal digits. Processors without 16-bit arithmetic convert at every operator, and get
slower: it is for GPUs, and for files.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16

from services.trainer.optimize.task import Task


def apply(source: Path, target: Path, task: Task, settings: Mapping[str, Any]) -> None:
    """Write the converted model."""
    onnx.save(convert_float_to_float16(onnx.load(str(source)), keep_io_types=True), str(target))
