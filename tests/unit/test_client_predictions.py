"""Tensors to bytes and back, and errors of three kinds of door."""

import json
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from aios.client import predictions
from aios.errors import InvalidArgument, NotFound, Unavailable
from aios.tensors import DTYPES, decode, encode, error_of

IMAGE = [{"name": "image", "datatype": "FP32", "shape": [-1, 2]}]


def echo(head: bytes, body: bytes) -> tuple[bytes, int]:
    """What a server that returns its inputs would answer."""
    answer = json.loads(head)
    answer["outputs"] = answer.pop("inputs")
    text = json.dumps(answer).encode()
    return text + body, len(text)


@given(st.data(), st.sampled_from(sorted(DTYPES)), npst.array_shapes(min_side=0, max_dims=4, max_side=5))
def test_every_tensor_comes_back_as_it_was(
    data: st.DataObject, datatype: str, shape: tuple[int, ...]
) -> None:
    first = data.draw(npst.arrays(np.dtype(DTYPES[datatype]), shape))
    second = np.arange(3, dtype=np.int64)
    _, outputs = decode(*echo(*encode({"a": (datatype, first), "b": ("INT64", second)})))
    np.testing.assert_array_equal(outputs["a"], first)
    np.testing.assert_array_equal(outputs["b"], second)


def test_texts_come_back_as_bytes() -> None:
    texts = np.array([["héllo", ""], [b"\xff", "x"]], dtype="O")
    _, outputs = decode(*echo(*encode({"text": ("BYTES", texts)})))
    assert outputs["text"].tolist() == [["héllo".encode(), b""], [b"\xff", b"x"]]


def test_an_answer_in_plain_json_is_read_too() -> None:
    text = b'{"outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1, 2.5]}]}'
    _, outputs = decode(text, len(text))
    assert outputs["y"].tolist() == [[1.0, 2.5]]
    assert outputs["y"].dtype == np.float32


@pytest.mark.parametrize(
    ("given_inputs", "field"),
    [
        ({"imgae": [[1, 2]]}, "inputs.imgae"),
        ({"image": "text"}, "inputs.image"),
        ({"image": [[1], [1, 2]]}, "inputs.image"),
    ],
)
def test_a_wrong_input_is_named(given_inputs: Any, field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        predictions._arrays(given_inputs, IMAGE)
    assert field in refused.value.fields


def test_the_only_input_needs_no_name_and_lists_become_its_type() -> None:
    datatype, array = predictions._arrays([[1, 2]], IMAGE)["image"]
    assert (datatype, str(array.dtype), array.tolist()) == ("FP32", "float32", [[1, 2]])


def test_numbers_that_do_not_fit_are_refused_instead_of_changed() -> None:
    with pytest.raises(InvalidArgument, match="do not fit"):
        predictions._arrays([300], [{"name": "x", "datatype": "UINT8", "shape": [-1]}])
    with pytest.raises(InvalidArgument, match="do not fit"):
        predictions._arrays([0.5], [{"name": "x", "datatype": "INT64", "shape": [-1]}])


@pytest.mark.parametrize(
    ("status", "body", "kind", "reason", "message"),
    [
        (404, {"title": "x", "detail": "No such deployment.", "reason": "DEPLOYMENT_NOT_FOUND"}, NotFound,
         "DEPLOYMENT_NOT_FOUND", "No such deployment."),
        (400, {"error": "unexpected shape"}, InvalidArgument, "INVALID_ARGUMENT", "unexpected shape"),
        (503, "no healthy upstream", Unavailable, "UNAVAILABLE", "no healthy upstream"),
        (503, "", Unavailable, "UNAVAILABLE", "HTTP 503"),
    ],
)  # fmt: skip
def test_an_error_is_the_catalogues_whoever_made_it(
    status: int, body: Any, kind: type[Exception], reason: str, message: str
) -> None:
    response = (
        httpx.Response(status, json=body) if isinstance(body, dict) else httpx.Response(status, text=body)
    )
    error = error_of(response)
    assert (type(error), error.reason, error.message) == (kind, reason, message)
