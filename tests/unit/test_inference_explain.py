"""Attributions of models whose attributions are known."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from aios.errors import FailedPrecondition, InvalidArgument
from services.inference.explain import attribute, page
from services.inference.explain.attribute import GRADIENTS, OCCLUSION, SHAPLEY, Model
from services.inference.explain.graph import Graph

WEIGHTS_DC = np.array([[1.0, -2.0], [3.0, 0.5], [0.0, 4.0]], np.float32)
X_D = np.array([2.0, -1.0, 0.5], np.float32)
BASE_D = np.array([1.0, 1.0, 0.0], np.float32)


def saved(folder: Path, nodes: list[Any], constants: dict[str, Any], shape: list[Any], kind: int = 1) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, ["n", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array(each), name) for name, each in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def linear(tmp_path: Path) -> Model:
    path = saved(tmp_path, [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": WEIGHTS_DC}, [3])
    return Model(path, batches=True)


@pytest.mark.parametrize("method", [GRADIENTS, OCCLUSION, SHAPLEY])
def test_every_method_finds_the_parts_of_a_linear_model(linear: Model, method: str) -> None:
    found = attribute.explain(linear, {"x": X_D}, {"x": BASE_D}, method=method, target=1)
    assert found.method == method
    assert found.attributions["x"] == pytest.approx((X_D - BASE_D) * WEIGHTS_DC[:, 1], abs=1e-5)
    assert found.gap == pytest.approx(0, abs=1e-4)


def test_the_likeliest_output_is_explained_unless_another_is_named(linear: Model) -> None:
    assert attribute.explain(linear, {"x": X_D}, {"x": BASE_D}).target == 0
    with pytest.raises(InvalidArgument, match="2 outputs"):
        attribute.explain(linear, {"x": X_D}, {"x": BASE_D}, target=2)


def test_a_model_without_gradients_is_explained_by_its_answers(tmp_path: Path) -> None:
    path = saved(tmp_path, [helper.make_node("Floor", ["x"], ["y"])], {}, [3])
    model = Model(path, batches=True)
    found = attribute.explain(model, {"x": X_D}, {"x": BASE_D * 0})
    assert found.method == OCCLUSION
    assert "Floor" in found.notes[0]
    with pytest.raises(FailedPrecondition, match="Floor"):
        attribute.explain(model, {"x": X_D}, {"x": BASE_D}, method=GRADIENTS)


def test_a_convolutional_network_answers_alike_with_gradients(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "k", "b"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("BatchNormalization", ["c", "s", "b", "b", "s"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w"], ["g"], transB=1),
        helper.make_node("Softmax", ["g"], ["y"], axis=1),
    ]
    constants = {
        "k": generator.normal(size=(4, 1, 3, 3)).astype("f4"),
        "b": generator.normal(size=4).astype("f4"),
        "s": np.abs(generator.normal(size=4)).astype("f4"),
        "w": generator.normal(size=(5, 64)).astype("f4"),
    }
    path = saved(tmp_path, nodes, constants, [1, 16, 16])
    x = generator.normal(size=(3, 1, 16, 16)).astype("f4")
    [expected] = onnxruntime.InferenceSession(str(path)).run(None, {"x": x})
    given = torch.from_numpy(x).requires_grad_()
    answer = Graph(path)(given)
    assert answer.detach().numpy() == pytest.approx(expected, abs=1e-5)
    answer[:, 0].sum().backward()
    assert given.grad is not None
    assert float(given.grad.abs().sum()) > 0


def test_the_word_that_decided_stands_out(tmp_path: Path) -> None:
    class Sentiment(Model):
        """Says 1 for each `good`."""

        def __init__(self) -> None:
            self.inputs = ["text"]

        def ask(self, inputs_B: Any, most: int = 64) -> Any:
            return np.array([[float(str(each[0]).split().count("good"))] for each in inputs_B["text"]])

    text = np.array(["a good day", None], object)[:-1]
    found = attribute.explain(Sentiment(), {"text": text}, {"text": text})
    assert found.words["text"] == [("a", 0.0), ("good", 1.0), ("day", 0.0)]
    shown = page.page("Why", {}, found, {}, [])
    assert "rgba(220,57,18,1.00)" in shown


def test_an_image_gets_a_picture_and_a_vector_gets_bars() -> None:
    assert page.is_image((1, 28, 28))
    assert page.is_image((32, 32, 3))
    assert not page.is_image((3,))
    made = page.picture(np.zeros((1, 28, 28), np.float32), np.ones((1, 28, 28), np.float32))
    assert made.size == (336, 336)
