"""Plain values become tensors, tensors become labelled predictions, and what does not fit is named."""

import base64
import io
import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from aios.errors import FailedPrecondition, InvalidArgument
from services.inference.predict import to_predictions, to_tensors


@dataclass(frozen=True)
class Tensor:
    name: str
    datatype: str
    shape: tuple[int, ...]


IMAGE = Tensor("image", "FP32", (1, 2, 2))
AGE = Tensor("age", "INT64", (1,))
CITY = Tensor("city", "BYTES", (1,))


def png(pixels: Any, mode: str = "L") -> dict[str, str]:
    out = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8), mode).save(out, "PNG")
    return {"b64": base64.b64encode(out.getvalue()).decode()}


def test_values_of_several_inputs_become_a_batch() -> None:
    tensors = to_tensors(
        [{"age": 7, "city": "Bonn"}, {"age": "9007199254740993", "city": ["Köln"]}], [AGE, CITY], 8
    )

    datatype, ages = tensors["age"]
    assert (datatype, ages.tolist()) == ("INT64", [[7], [9007199254740993]])
    assert tensors["city"][1].tolist() == [[b"Bonn"], ["Köln".encode()]]


def test_a_model_without_a_batch_dimension_takes_one_instance() -> None:
    assert to_tensors([[[[1, 2], [3, 4]]]], [IMAGE], 0)["image"][1].shape == (1, 2, 2)
    with pytest.raises(InvalidArgument, match="must be 1 to 1, not 2"):
        to_tensors([[[[1, 2], [3, 4]]]] * 2, [IMAGE], 0)


@pytest.mark.parametrize(
    ("tensor", "shape"),
    [
        (Tensor("x", "FP32", (1, 2, 2)), (1, 1, 2, 2)),
        (Tensor("x", "UINT8", (2, 2)), (1, 2, 2)),
        (Tensor("x", "FP16", (2, 2, 3)), (1, 2, 2, 3)),
        (Tensor("x", "FP32", (3, -1, -1)), (1, 3, 4, 4)),
    ],
)
def test_an_image_is_scaled_to_what_the_input_takes(tensor: Tensor, shape: tuple[int, ...]) -> None:
    _, array = to_tensors([png(np.full((4, 4), 255))], [tensor], 4)["x"]

    assert array.shape == shape
    assert array.min() == array.max() == (255 if tensor.datatype == "UINT8" else 1)


def test_pixels_stay_where_they_are() -> None:
    _, array = to_tensors([{"image": png([[0, 255], [255, 0]])}], [IMAGE], 1)["image"]
    assert array.tolist() == [[[[0, 1], [1, 0]]]]


@pytest.mark.parametrize(
    ("instances", "inputs", "field", "problem"),
    [
        ([], [IMAGE], "instances", "1 to 4"),
        ([1] * 5, [IMAGE], "instances", "1 to 4"),
        ([[1, 2]], [IMAGE], "instances[0]", "shape [1, 2, 2], not [2]"),
        ([[[[1, 2], [3]]]], [IMAGE], "instances[0]", "of the same length"),
        ([[[["a", 2], [3, 4]]]], [IMAGE], "instances[0]", "a number: element 0"),
        ([[[[True, 2], [3, 4]]]], [IMAGE], "instances[0]", "a number: element 0"),
        ([[[[1e300, 2], [3, 4]]]], [IMAGE], "instances[0]", "FP32 can hold"),
        ([{"b64": "%"}], [IMAGE], "instances[0]", "base64"),
        ([{"b64": "AAAA"}], [IMAGE], "instances[0]", "PNG, JPEG, WEBP"),
        ([{"url": "http://x"}], [IMAGE], "instances[0].url", "unknown input"),
        ([{"age": 1}], [AGE, CITY], "instances[0].city", "is missing: BYTES of shape [1]"),
        ([{"age": 1, "city": "x", "ctiy": 1}], [AGE, CITY], "instances[0].ctiy", "unknown input"),
        ([{"age": 1.5, "city": "x"}], [AGE, CITY], "instances[0].age", "an integer"),
        ([{"age": 2.0**60, "city": "x"}], [AGE, CITY], "instances[0].age", "as text"),
        ([7], [AGE, CITY], "instances[0]", "an object with: age, city"),
        ([None], [CITY], "instances[0]", "a text"),
    ],
)
def test_what_does_not_fit_is_named(
    instances: list[Any], inputs: list[Tensor], field: str, problem: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        to_tensors(instances, inputs, 4)
    assert problem in refused.value.fields[field]


def test_instances_of_free_size_must_agree() -> None:
    with pytest.raises(InvalidArgument, match="differ in shape"):
        to_tensors([[1], [1, 2]], [Tensor("x", "FP32", (-1,))], 4)


def test_a_datatype_that_json_cannot_say_is_told() -> None:
    with pytest.raises(FailedPrecondition, match="BF16"):
        to_tensors([1], [Tensor("x", "BF16", (1,))], 1)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda each: st.lists(each) |
                    st.dictionaries(st.sampled_from(["b64", "image", "x"]), each)))  # fmt: skip
def test_whatever_json_says_is_taken_or_refused(value: Any) -> None:
    for inputs in ([IMAGE], [AGE, CITY]):
        with suppress(InvalidArgument):
            to_tensors([value], inputs, 4)


def test_logits_get_a_label_and_its_probability() -> None:
    logits = np.log(np.array([[0.2, 0.7, 0.1], [0.5, 0.3, 0.2]], np.float32)) + 3
    found = list(to_predictions({"logits": logits}, ["a", "b", "c"], 2, batched=True))
    assert [(label, round(probability, 3)) for label, probability, _ in found] == [("b", 0.7), ("a", 0.5)]
    assert np.allclose(found[0][2]["logits"], logits[0])


def test_probabilities_stay_as_they_are_and_other_outputs_get_no_label() -> None:
    outputs = {"n": np.array([[1.0]]), "p": np.array([[0.25, 0.75]])}
    assert next(to_predictions(outputs, ["no", "yes"], 1, batched=True))[:2] == ("yes", 0.75)
    assert next(to_predictions({"n": np.array([[1.0]])}, [], 1, batched=True))[:2] == ("", 0.0)


def test_every_output_is_json() -> None:
    outputs = {"f": np.array([np.nan, 1.5]), "i": np.array([2**60]), "t": np.array([b"x", b"\xff"], "O")}
    _, _, plain = next(to_predictions(outputs, [], 1, batched=False))
    assert json.loads(json.dumps(plain, allow_nan=False)) == {
        "f": [None, 1.5],
        "i": [str(2**60)],
        "t": ["x", {"b64": "/w=="}],
    }
