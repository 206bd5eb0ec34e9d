"""A signed folder answers without a platform, and only as it was signed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from aios.common.v1.tensor_pb2 import Signature, TensorSpec
from aios.data.v1.model_pb2 import ModelVersion
from aios.edge import bundle, run
from aios.errors import FailedPrecondition, InvalidArgument

VERSION = ModelVersion(
    name="projects/p/models/buyers/versions/3",
    signature=Signature(
        inputs=[TensorSpec(name="features", datatype="FP32", shape=[3])],
        outputs=[TensorSpec(name="scores", datatype="FP32", shape=[2])],
        max_batch_size=8,
        labels=["no", "yes"],
    ),
)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A model that sums up: no is minus the sum, yes the sum."""
    weights = np.array([[-1, 1]] * 3, np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["features", "w"], ["scores"])],
        "sums",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 2])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    (folder / "features.json").write_text(json.dumps(["age", "town=Bern", "town=Chur"]))
    return folder


@pytest.fixture
def made(tmp_path: Path, files: Path) -> Path:
    bundle.make(VERSION, files, bundle.key_at(tmp_path / "edge.pem"), tmp_path / "edge")
    return tmp_path / "edge"


def ask(folder: Path, source: Path | None, key: str = "") -> tuple[int, Any, str]:
    """As on a device: an interpreter that sees neither this repository nor its environment's variables."""
    command = [sys.executable, "-I", str(folder / "run.py"), "--key", key or str(folder.parent / "edge.pub")]
    command += ["--input", str(source)] if source else ["--check"]
    done = subprocess.run(
        command, cwd=folder.parent, env={}, capture_output=True, text=True, check=False, timeout=60
    )
    return (
        done.returncode,
        json.loads(done.stdout) if done.stdout.startswith("{") else done.stdout,
        done.stderr,
    )


def test_a_folder_answers_columns_vectors_and_arrays(made: Path, tmp_path: Path) -> None:
    given_ = tmp_path / "in.json"
    given_.write_text(json.dumps({"instances": [{"age": 2, "town": "Bern"}, [-4, 0, 1]]}))
    code, answer, error = ask(made, given_)
    assert code == 0, error
    assert [each["label"] for each in answer["predictions"]] == ["yes", "no"]
    assert answer["predictions"][0]["outputs"]["scores"] == [-3.0, 3.0]
    assert answer["predictions"][0]["probability"] == pytest.approx(1 / (1 + np.exp(-6)))
    np.save(tmp_path / "in.npy", np.ones((1, 3)))
    assert ask(made, tmp_path / "in.npy")[1]["predictions"][0]["label"] == "yes"
    given_.write_text(json.dumps([{"age": 2}]))
    assert ask(made, given_)[2] == "error: an instance must have age, town\n"


def test_what_was_not_signed_is_refused(made: Path) -> None:
    assert ask(made, None)[0] == 0
    assert ask(made, None, bundle.public(Ed25519PrivateKey.generate()))[0] == 3
    (made / "model.onnx").write_bytes((made / "model.onnx").read_bytes() + b"\0")
    code, _, error = ask(made, None)
    assert (code, error) == (3, "refused: model.onnx has other content\n")
    manifest = made / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"yes"', '"no"'))
    assert "signature" in ask(made, None)[2]


@settings(max_examples=20, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 511))
def test_signatures_hold_as_signed_and_not_with_one_bit_changed(message: bytes, bit: int) -> None:
    key = Ed25519PrivateKey.generate()
    owner, signature = bytes.fromhex(bundle.public(key)), key.sign(message)
    assert run.verify(owner, message, signature)
    changed = bytearray(signature)
    changed[bit // 8] ^= 1 << bit % 8
    assert not run.verify(owner, message, bytes(changed))
    assert not run.verify(owner, message + b"\0", signature)
    assert not run.verify(owner, message, signature[:63])


def test_what_a_device_cannot_run_and_a_key_that_is_none_are_refused(tmp_path: Path, files: Path) -> None:
    key = bundle.key_at(tmp_path / "edge.pem")
    assert (tmp_path / "edge.pem").stat().st_mode & 0o077 == 0
    assert bundle.public(bundle.key_at(tmp_path / "edge.pem")) == bundle.public(key)
    (files / "model.onnx.data").write_bytes(b"weights")
    with pytest.raises(FailedPrecondition, match="one ONNX file"):
        bundle.make(VERSION, files, key, tmp_path / "edge")
    (tmp_path / "no.pem").write_text("no key")
    with pytest.raises(InvalidArgument, match="holds no private Ed25519 key"):
        bundle.key_at(tmp_path / "no.pem")
