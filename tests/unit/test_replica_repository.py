"""The model repository of one revision, read back as Triton's own message."""

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from services.inference.replica.repository import (
    ARTIFACTS,
    Backend,
    InvalidModel,
    artifact_path,
    config_text,
    model_file,
)
from services.inference.replica.spec import ELEMENT_BYTES, ReplicaSpec, Signature, Tensor

X, Y = Tensor("x", "FP32", (1, 28, 28)), Tensor("y", "FP32", (10,))


def spec(*, inputs: tuple[Tensor, ...] = (X,), batch: int = 64, delay: int = 0) -> ReplicaSpec:
    return ReplicaSpec(
        deployment_id="digits",
        revision="projects/demo/deployments/digits/revisions/3",
        model_version="projects/demo/models/digits/versions/7",
        signature=Signature(inputs, (Y,), batch),
        batch_delay_micros=delay,
        manifest_sha256="ab" * 32,
    )


def config(of: ReplicaSpec, backend: Backend = Backend.PYTHON, *, gpu: bool = False) -> ModelConfig:
    text = config_text(of, "model.onnx", backend, instances=2, threads=3, gpu=gpu)
    return text_format.Parse(text, ModelConfig())


def test_the_signature_becomes_the_config() -> None:
    made = config(spec())
    assert (made.name, made.backend, made.max_batch_size) == ("digits", "python", 64)
    assert [(each.name, list(each.dims)) for each in made.input] == [("x", [1, 28, 28])]
    assert [(each.name, list(each.dims)) for each in made.output] == [("y", [10])]
    assert made.instance_group[0].count == 2
    assert made.instance_group[0].kind == ModelInstanceGroup.KIND_CPU
    assert made.parameters["model_file"].string_value == "artifacts/model.onnx"
    assert made.parameters["threads"].string_value == "3"
    assert made.parameters["manifest_sha256"].string_value == "ab" * 32


def test_batches_wait_only_when_a_delay_is_given() -> None:
    assert not config(spec(delay=0)).HasField("dynamic_batching")
    waiting = config(spec(delay=500)).dynamic_batching
    assert waiting.max_queue_delay_microseconds == 500
    assert waiting.default_queue_policy.max_queue_size > 0


def test_a_model_without_a_batch_dimension_is_never_batched() -> None:
    made = config(spec(batch=0, delay=500))
    assert made.max_batch_size == 0
    assert not made.HasField("dynamic_batching")


def test_a_scalar_is_one_element_to_the_client() -> None:
    made = config(spec(inputs=(Tensor("scale", "FP32", ()),)))
    assert list(made.input[0].dims) == [1]
    assert made.input[0].HasField("reshape")
    assert list(made.input[0].reshape.shape) == []


def test_the_servers_own_backend_takes_the_file_itself() -> None:
    made = config(spec(), Backend.ONNXRUNTIME, gpu=True)
    assert (made.backend, made.default_model_filename) == ("onnxruntime", "artifacts/model.onnx")
    assert made.instance_group[0].kind == ModelInstanceGroup.KIND_GPU


def test_an_unservable_datatype_is_named() -> None:
    with pytest.raises(InvalidModel, match="'x' is BF16"):
        config(spec(inputs=(Tensor("x", "BF16", (4,)),)))


@given(st.text(min_size=1, max_size=40).filter(lambda name: "\x00" not in name))
def test_any_tensor_name_survives(name: str) -> None:
    made = config(spec(inputs=(Tensor(name, "INT64", (-1, 2)),)))
    assert made.input[0].name == name
    assert list(made.model_warmup[0].inputs[name].dims) == [1, 2]


@given(st.sampled_from(sorted(ELEMENT_BYTES)), st.lists(st.integers(1, 64), min_size=1, max_size=4))
def test_every_datatype_and_shape_has_a_warm_up(datatype: str, shape: list[int]) -> None:
    made = config(spec(inputs=(Tensor("x", datatype, tuple(shape)),)))
    warm = made.model_warmup[0].inputs["x"]
    assert (warm.data_type, list(warm.dims)) == (made.input[0].data_type, shape)


def test_the_onnx_file_is_model_onnx_or_the_only_one() -> None:
    assert model_file(["labels.json", "net.onnx", "net.onnx.data"]) == "net.onnx"
    assert model_file(["a.onnx", "model.onnx"]) == "model.onnx"
    for unclear in (["a.onnx", "b.onnx"], ["weights.safetensors"]):
        with pytest.raises(InvalidModel, match="found"):
            model_file(unclear)


@pytest.mark.parametrize("path", ["/etc/passwd", "../model.py", "a/../../model.py", "", "a\\b", "a\x00b"])
def test_a_file_never_leaves_its_directory(path: str) -> None:
    with pytest.raises(InvalidModel):
        artifact_path(path)


@given(st.text(max_size=60))
def test_what_is_accepted_stays_below_the_artifacts(path: str) -> None:
    try:
        made = artifact_path(path)
    except InvalidModel:
        return
    assert made.parts[1] == ARTIFACTS
    assert len(made.parts) > 2
    assert ".." not in made.parts
