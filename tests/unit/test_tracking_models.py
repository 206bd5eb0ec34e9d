"""Paths of artifacts, names of registered models, and what an MLmodel file says: the pure rules of tracking models."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from aios.errors import AiosError, InvalidArgument
from aios.names import check_id
from services.trainer.tracking import mlmodel, paths, registered
from services.trainer.tracking.paths import Kind


def test_a_path_says_whose_file_it_is() -> None:
    run = paths.place("e-1/abc/artifacts/plots/a b.png")
    assert (run.kind, run.holder, run.id, run.path) == (Kind.RUN, "e-1", "abc", "plots/a b.png")
    assert run.uri == "mlflow-artifacts:/e-1/abc/artifacts/plots/a b.png"
    logged = paths.place("/e-1/models/m-1/artifacts")
    assert (logged.kind, logged.id, logged.path, logged.root) == (
        Kind.MODEL,
        "m-1",
        "",
        "e-1/models/m-1/artifacts",
    )
    version = paths.place("registry/iris/3/MLmodel")
    assert (version.kind, version.root, version.path) == (Kind.REGISTRY, "registry/iris/3", "MLmodel")
    assert paths.of_uri(version.uri) == version


@pytest.mark.parametrize(
    "path",
    [
        "",
        "e-1",
        "e-1/abc",
        "e-1/abc/other/x",
        "e-1/abc/artifacts/../x",
        "e-1/abc/artifacts/a//b",
        "e-1/abc/artifacts/a\\b",
        "e-1/abc/artifacts/C:/x",
        "e-1/abc/artifacts/a\x00b",
        "e-1/abc/artifacts/" + "a/" * 300 + "x",
    ],
)
def test_other_paths_are_refused(path: str) -> None:
    with pytest.raises(AiosError):
        paths.place(path)


@pytest.mark.parametrize("source", ["/tmp/model", "s3://bucket/model", "file:///etc", "dbfs:/x", "runs:/1/m"])
def test_a_source_elsewhere_is_refused(source: str) -> None:
    with pytest.raises(InvalidArgument):
        paths.of_uri(source)


def test_a_folder_lists_what_lies_right_in_it() -> None:
    held = {"a.txt": 1, "plots/x.png": 2, "plots/more/y.png": 3, "plotsx": 4}
    assert paths.below(held, "") == [("a.txt", False, 1), ("plots", True, 0), ("plotsx", False, 4)]
    assert paths.below(held, "plots") == [("more", True, 0), ("x.png", False, 2)]
    assert paths.below(held, "a.txt") == [("a.txt", False, 1)]
    assert paths.below(held, "none") == []


@given(st.text(max_size=300))
def test_every_name_becomes_an_id_or_is_refused(title: str) -> None:
    try:
        made = registered.model_id(title)
    except InvalidArgument:
        return
    assert check_id(made, "name") == made
    assert registered.model_id(made) == made


def test_names_become_ids() -> None:
    assert registered.model_id("Iris_Model v2") == "iris-model-v2"


def stated(flavors: dict[str, object], inputs: object, outputs: object) -> bytes:
    signature = {"inputs": json.dumps(inputs), "outputs": json.dumps(outputs)}
    return yaml.safe_dump({"flavors": flavors, "signature": signature}).encode()


def tensor(name: str, shape: list[int]) -> dict[str, object]:
    return {"type": "tensor", "name": name, "tensor-spec": {"dtype": "float32", "shape": shape}}


def test_an_onnx_model_says_what_a_server_needs() -> None:
    text = stated({"onnx": {"data": "model.onnx"}}, [tensor("x", [-1, 4])], [tensor("y", [-1, 3])])
    found = mlmodel.signature(mlmodel.read(text))
    assert found is not None
    assert [(each.name, each.datatype, list(each.shape)) for each in (*found.inputs, *found.outputs)] == [
        ("x", "FP32", [4]),
        ("y", "FP32", [3]),
    ]
    assert found.max_batch_size == 64


def test_what_is_a_pickle_or_says_no_tensors_is_not_for_a_server() -> None:
    column = [{"type": "double", "name": "length"}]
    tensors = [tensor("x", [-1, 4])]
    for text in (
        stated({"sklearn": {}, "python_function": {}}, tensors, tensors),
        stated({"onnx": {"data": "model.onnx"}}, column, column),
        stated({"onnx": {"data": "other.onnx"}}, tensors, tensors),
        stated({"onnx": {"data": "model.onnx"}}, [], []),
        b"flavors: {onnx: {data: model.onnx}}",
        b"- a list",
        b"{",
        b"!!python/object/apply:os.system ['true']",
        b"[" * 5000,
        b"",
    ):
        assert mlmodel.signature(mlmodel.read(text)) is None
    assert mlmodel.flavors(mlmodel.read(stated({"sklearn": {}, "python_function": {}}, [], []))) == [
        "sklearn"
    ]
