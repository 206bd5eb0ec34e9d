"""What an ONNX model is made of: weights, those that are not zero, multiply-accumulates of one sample, bytes.

A convolution costs (output height x width) x weights, a matrix product rows x weights. Weights are what these read as
second and third input, through a DequantizeLinear where there is one. Of a graph with branches, all that may run is
counted.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, shape_inference

PRODUCTS = {"Conv", "ConvInteger", "QLinearConv", "Gemm", "MatMul", "MatMulInteger", "QLinearMatMul"}
_PASSED_ON = {"DequantizeLinear", "QuantizeLinear", "Cast", "Transpose", "Reshape"}


@dataclass(frozen=True)
class Size:
    """Of one file."""

    parameters: int
    nonzero: int
    macs: int
    bytes: int


def size(path: Path) -> Size:
    """Count a model's parts."""
    model = shape_inference.infer_shapes(onnx.load(str(path)))
    graphs = list(_graphs(model.graph))
    nodes = [node for graph in graphs for node in graph.node]
    weights = {each.name: each for graph in graphs for each in graph.initializer}
    made = {name: node for node in nodes for name in node.output}
    shapes = {
        value.name: [each.dim_value for each in value.type.tensor_type.shape.dim]
        for graph in graphs
        for value in (*graph.value_info, *graph.output)
    }

    def weight_of(name: str) -> NDArray[Any] | None:
        while name not in weights and name in made and made[name].op_type in _PASSED_ON:
            name = made[name].input[0]
        return numpy_helper.to_array(weights[name]) if name in weights else None

    parameters = nonzero = macs = 0
    counted: set[str] = set()
    for node in nodes:
        if node.op_type not in PRODUCTS:
            continue
        for position, name in enumerate(node.input[1:3], start=1):
            values = weight_of(name)
            integer = node.op_type.endswith("Integer")
            if values is None or (integer and position == 2):  # there it is the zero point
                continue
            if name not in counted:
                counted.add(name)
                parameters += values.size
                nonzero += int(np.count_nonzero(values))
            if position == 1:
                shape = shapes.get(node.output[0], [])
                spread = shape[2:] if "Conv" in node.op_type else shape[1:-1]
                macs += int(values.size) * int(np.prod(spread or [1]))
    return Size(parameters, nonzero, macs, path.stat().st_size)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and those of its branches."""
    yield graph
    for node in graph.node:
        for each in node.attribute:
            if each.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(each.g)
