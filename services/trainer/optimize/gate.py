"""Two stages in one ONNX graph: all samples take the first, and those that it is unsure of take the rest.

A sample is unsure where max softmax(logits) < threshold. Its rows are gathered, the rest runs on them alone inside an
`If` (not at all where every sample is sure), and its answers are scattered over those of the first stage. So one file is
served as any other, and a batch pays for its unsure samples alone.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import compose, helper, numpy_helper

from services.trainer.job.outputs import MODEL_FILE
from services.trainer.optimize.task import EVALUATE_BATCH, Split, logits

THRESHOLD = "threshold"
"""The initializer that `at` replaces."""


def join(trunk: Path | None, first: Path, rest: Path, threshold: float, target: Path) -> None:
    """Write the graph of both stages, each a model of one input and one output.

    Args:
        trunk: What both stages read; None: the input itself.
    """
    parts = {
        name: compose.add_prefix(onnx.load(str(file)), f"{name}/")
        for name, file in (("trunk", trunk), ("first", first), ("rest", rest))
        if file is not None
    }
    source = onnx.load(str(trunk or first)).graph.input[0]
    answer = onnx.load(str(first)).graph.output[0]

    def placed(name: str, reads: str) -> tuple[list[onnx.NodeProto], str]:
        graph = parts[name].graph
        enter = helper.make_node("Identity", [reads], [graph.input[0].name])
        return [enter, *graph.node], graph.output[0].name

    before, carry = placed("trunk", source.name) if trunk else ([], source.name)
    quick, guess = placed("first", carry)
    slow, known = placed("rest", "unsure_inputs")
    node = helper.make_node
    gate = [
        node("Softmax", [guess], ["shares"], axis=1),
        node("ReduceMax", ["shares", "last_axis"], ["confidence"], keepdims=0),
        node("Less", ["confidence", THRESHOLD], ["unsure"]),
        node("NonZero", ["unsure"], ["unsure_columns"]),
        node("Transpose", ["unsure_columns"], ["unsure_rows"]),
        node("Size", ["unsure_rows"], ["unsure_count"]),
        node("Greater", ["unsure_count", "none"], ["any_unsure"]),
    ]
    ask = helper.make_graph(
        [
            node("GatherND", [carry, "unsure_rows"], ["unsure_inputs"]),
            *slow,
            node("ScatterND", [guess, "unsure_rows", known], ["asked"]),
        ],
        "ask_the_rest",
        [],
        [_like(answer, "asked")],
    )
    skip = helper.make_graph([node("Identity", [guess], ["kept"])], "keep", [], [_like(answer, "kept")])
    branch = node("If", ["any_unsure"], [answer.name], then_branch=ask, else_branch=skip)
    constants = [
        numpy_helper.from_array(np.array([1], dtype=np.int64), "last_axis"),
        numpy_helper.from_array(np.array(0, dtype=np.int64), "none"),
        numpy_helper.from_array(np.array(threshold, dtype=np.float32), THRESHOLD),
    ]
    weights = [each for part in parts.values() for each in part.graph.initializer]
    graph = helper.make_graph(
        [*before, *quick, *gate, branch], "two_stages", [source], [answer], [*constants, *weights]
    )
    model = helper.make_model(graph, opset_imports=parts["first"].opset_import)
    model.ir_version = parts["first"].ir_version
    onnx.checker.check_model(model)
    onnx.save(model, str(target))


def _like(value: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    copied = onnx.ValueInfoProto()
    copied.CopyFrom(value)
    copied.name = name
    return copied


def at(file: Path, threshold: float, folder: Path) -> Path:
    """The same graph with another threshold, in a folder of its own."""
    model = onnx.load(str(file))
    for each in model.graph.initializer:
        if each.name == THRESHOLD:
            each.CopyFrom(numpy_helper.from_array(np.array(threshold, dtype=np.float32), THRESHOLD))
    folder.mkdir()
    onnx.save(model, str(folder / MODEL_FILE))
    return folder / MODEL_FILE


def asked(file: Path, inputs: torch.Tensor) -> NDArray[np.float32]:
    """The confidence of a written graph's first stage. Shape: [N]."""
    model = onnx.load(str(file))
    model.graph.output.append(helper.make_tensor_value_info("confidence", onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    parts = [session.run(["confidence"], {name: part.numpy()})[0] for part in inputs.split(EVALUATE_BATCH)]
    return np.concatenate(parts)


def confidence(first: torch.nn.Module, inputs: torch.Tensor) -> NDArray[np.float32]:
    """Of the first stage's answers. Shape: [N]."""
    found: NDArray[np.float32] = logits(first, inputs).softmax(1).max(1).values.numpy()
    return found


def chosen(first: torch.nn.Module, whole: torch.nn.Module, held: Split, points: float) -> float:
    """The lowest threshold at which both together lose at most so many points of the whole network's accuracy.

    The whole network has mostly learnt from the samples that are held out from the first stage, and looks better on them
    than it is: the threshold is on the high side, which costs time and no accuracy.
    """
    sure = confidence(first, held.inputs)
    quick, slow = ((logits(each, held.inputs).argmax(1) == held.labels_N).numpy() for each in (first, whole))
    for threshold in (0.0, *thresholds(sure, np.linspace(0.01, 0.99, 99).tolist())):
        if np.where(sure < threshold, slow, quick).mean() >= slow.mean() - points / 100:
            return float(threshold)
    return 1.01  # above every confidence: all take the rest


def thresholds(sure: NDArray[np.float32], shares: Sequence[float]) -> list[float]:
    """Where so large a share of samples is unsure."""
    return [float(np.quantile(sure, share)) for share in shares]
