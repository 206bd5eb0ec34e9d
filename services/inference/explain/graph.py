"""An ONNX graph as a torch module, so that it has gradients. What is served is ONNX alone: this needs no other weights.

Operators are those of networks that are trained here and of most others; a graph with another one has no gradients here,
and is explained by its answers. The result is compared with ONNX Runtime's before it is used.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch.nn import functional

Tensor = torch.Tensor
Attributes = Mapping[str, Any]


class NotDifferentiable(Exception):
    """The graph has an operator that is not known here."""


class Graph(torch.nn.Module):
    """The first output of a graph, as a function of its inputs in order.

    Raises:
        NotDifferentiable: naming the operators.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        model = onnx.load(str(path))
        graph = model.graph
        self._nodes = list(graph.node)
        unknown = sorted({each.op_type for each in self._nodes} - OPERATORS.keys())
        if unknown:
            raise NotDifferentiable(f"no gradients through {', '.join(unknown)}")
        self._constants = {
            each.name: torch.from_numpy(np.array(numpy_helper.to_array(each))) for each in graph.initializer
        }
        self._inputs = [each.name for each in graph.input if each.name not in self._constants]
        self._output = graph.output[0].name
        self._attributes = [
            {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
            for node in self._nodes
        ]

    def forward(self, *inputs: Tensor) -> Tensor:
        known = dict(self._constants) | dict(zip(self._inputs, inputs, strict=True))
        for node, attributes in zip(self._nodes, self._attributes, strict=True):
            given = [known[name] if name else None for name in node.input]
            try:
                made = OPERATORS[node.op_type](given, attributes)
            except (TypeError, ValueError, KeyError, RuntimeError) as error:
                raise NotDifferentiable(f"{node.op_type} is used in a way not known here: {error}") from error
            results = made if isinstance(made, tuple) else (made,)
            known |= dict(zip(node.output, results, strict=False))
        return known[self._output]


def _gemm(given: Sequence[Any], a: Attributes) -> Tensor:
    left, right = given[:2]
    left = left.transpose(0, 1) if a.get("transA") else left
    right = right.transpose(0, 1) if a.get("transB") else right
    made: Tensor = a.get("alpha", 1.0) * (left @ right)
    return made + a.get("beta", 1.0) * given[2] if len(given) > 2 and given[2] is not None else made


def _convolve(given: Sequence[Any], a: Attributes) -> Tensor:
    x, weight = given[:2]
    rank = weight.dim() - 2
    x = _padded(x, a, rank, 0.0)
    by_rank: Mapping[int, Callable[..., Tensor]] = {1: functional.conv1d, 2: functional.conv2d}
    return by_rank[rank](
        x,
        weight,
        given[2] if len(given) > 2 else None,
        stride=tuple(a.get("strides", [1] * rank)),
        dilation=tuple(a.get("dilations", [1] * rank)),
        groups=a.get("group", 1),
    )


def _pool(given: Sequence[Any], a: Attributes, how: str) -> Tensor:
    size = list(a["kernel_shape"])
    if a.get("ceil_mode") or len(size) != 2 or (how == "mean" and any(a.get("pads", []))):
        raise ValueError("only plain pools of two dimensions")
    x = _padded(given[0], a, 2, float("-inf") if how == "max" else 0.0)
    stride = tuple(a.get("strides", [1, 1]))
    made: Tensor = (functional.max_pool2d if how == "max" else functional.avg_pool2d)(x, tuple(size), stride)
    return made


def _padded(x: Tensor, a: Attributes, rank: int, value: float) -> Tensor:
    if a.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise ValueError("auto_pad")
    pads = list(a.get("pads", [0] * 2 * rank))
    if not any(pads):
        return x
    ends = [pads[side * rank + axis] for axis in reversed(range(rank)) for side in (0, 1)]
    return functional.pad(x, ends, value=value)


def _reshape(given: Sequence[Any], a: Attributes) -> Tensor:
    x, shape = given[0], [int(size) for size in given[1]]
    made: Tensor = x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(shape)])
    return made


def _flatten(given: Sequence[Any], a: Attributes) -> Tensor:
    x, axis = given[0], a.get("axis", 1)
    made: Tensor = x.reshape(int(np.prod(x.shape[:axis])), -1)
    return made


def _normalised(given: Sequence[Any], a: Attributes) -> Tensor:
    x, scale, shift, mean, variance = given[:5]
    return functional.batch_norm(x, mean, variance, scale, shift, eps=a.get("epsilon", 1e-5))


def _layer_normalised(given: Sequence[Any], a: Attributes) -> Tensor:
    x, scale = given[:2]
    axis = a.get("axis", -1) % x.dim()
    bias = given[2] if len(given) > 2 else None
    return functional.layer_norm(x, x.shape[axis:], scale, bias, a.get("epsilon", 1e-5))


def _axes(given: Sequence[Any], a: Attributes) -> list[int]:
    if len(given) > 1 and given[1] is not None:
        return [int(each) for each in given[1]]
    return list(a.get("axes", range(given[0].dim())))


def _squeezed(given: Sequence[Any], a: Attributes) -> Tensor:
    x: Tensor = given[0]
    for axis in sorted((each % x.dim() for each in _axes(given, a)), reverse=True):
        x = x.squeeze(axis)
    return x


def _unsqueezed(given: Sequence[Any], a: Attributes) -> Tensor:
    x: Tensor = given[0]
    axes = _axes(given, a)
    for axis in sorted(each % (x.dim() + len(axes)) for each in axes):
        x = x.unsqueeze(axis)
    return x


def _reduced(kind: str) -> Callable[[Sequence[Any], Attributes], Tensor]:
    def reduce(given: Sequence[Any], a: Attributes) -> Tensor:
        made: Tensor = getattr(torch, kind)(given[0], dim=_axes(given, a), keepdim=bool(a.get("keepdims", 1)))
        return made

    return reduce


def _of_one(function: Callable[[Tensor], Any]) -> Callable[[Sequence[Any], Attributes], Tensor]:
    return lambda given, _: function(given[0])


def _of_two(function: Callable[[Tensor, Tensor], Any]) -> Callable[[Sequence[Any], Attributes], Tensor]:
    return lambda given, _: function(given[0], given[1])


def _gathered(given: Sequence[Any], a: Attributes) -> Tensor:
    x, where = given
    axis = a.get("axis", 0) % x.dim()
    found = x.index_select(axis, where.reshape(-1).long())
    made: Tensor = found.reshape([*x.shape[:axis], *where.shape, *x.shape[axis + 1 :]])
    return made


def _clipped(given: Sequence[Any], a: Attributes) -> Tensor:
    low, high = (given[i] if len(given) > i else a.get(name) for i, name in ((1, "min"), (2, "max")))
    made: Tensor = torch.clamp(given[0], low, high)
    return made


OPERATORS: Mapping[str, Callable[[Sequence[Any], Attributes], Any]] = {
    "Add": _of_two(torch.add),
    "AveragePool": lambda given, a: _pool(given, a, "mean"),
    "BatchNormalization": _normalised,
    "Cast": lambda given, a: given[0].to(
        torch.from_numpy(np.zeros(0, onnx.helper.tensor_dtype_to_np_dtype(a["to"]))).dtype
    ),
    "Clip": _clipped,
    "Concat": lambda given, a: torch.cat(list(given), a["axis"]),
    "Constant": lambda _, a: torch.from_numpy(np.array(numpy_helper.to_array(a["value"]))),
    "Conv": _convolve,
    "Div": _of_two(torch.div),
    "Dropout": _of_one(lambda x: x),
    "Elu": lambda given, a: functional.elu(given[0], a.get("alpha", 1.0)),
    "Erf": _of_one(torch.erf),
    "Exp": _of_one(torch.exp),
    "Flatten": _flatten,
    "Gather": _gathered,
    "Gelu": lambda given, a: functional.gelu(given[0], approximate=a.get("approximate", b"none").decode()),
    "Gemm": _gemm,
    "GlobalAveragePool": _of_one(lambda x: x.mean(dim=tuple(range(2, x.dim())), keepdim=True)),
    "Identity": _of_one(lambda x: x),
    "LayerNormalization": _layer_normalised,
    "LeakyRelu": lambda given, a: functional.leaky_relu(given[0], a.get("alpha", 0.01)),
    "Log": _of_one(torch.log),
    "LogSoftmax": lambda given, a: functional.log_softmax(given[0], a.get("axis", -1)),
    "MatMul": _of_two(torch.matmul),
    "MaxPool": lambda given, a: _pool(given, a, "max"),
    "Mul": _of_two(torch.mul),
    "Neg": _of_one(torch.neg),
    "Pow": _of_two(torch.pow),
    "ReduceMean": _reduced("mean"),
    "ReduceSum": _reduced("sum"),
    "Relu": _of_one(torch.relu),
    "Reshape": _reshape,
    "Sigmoid": _of_one(torch.sigmoid),
    "Softmax": lambda given, a: functional.softmax(given[0], a.get("axis", -1)),
    "Sqrt": _of_one(torch.sqrt),
    "Squeeze": _squeezed,
    "Sub": _of_two(torch.sub),
    "Tanh": _of_one(torch.tanh),
    "Transpose": lambda given, a: given[0].permute(a.get("perm", list(reversed(range(given[0].dim()))))),
    "Unsqueeze": _unsqueezed,
}
"""What is known: operator to a function of its inputs and attributes."""
