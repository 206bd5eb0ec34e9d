"""A Triton model repository that holds exactly one revision. Pure: texts and paths, no files.

    {root}/{deployment}/config.pbtxt
    {root}/{deployment}/1/model.py         Python backend only: our runner, never a file of the user's
    {root}/{deployment}/1/artifacts/...    the model version's files

Source: Triton model configuration, `model_config.proto` of 24.10.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from enum import Enum
from pathlib import PurePosixPath

from aios.errors import InvalidArgument
from services.inference.replica.spec import ELEMENT_BYTES, ReplicaSpec, Tensor

VERSION = "1"
"""Triton's version directory. A process serves one revision, so there is never another."""

ARTIFACTS = "artifacts"
"""Model files have a directory of their own: one named `model.py` must never run."""

QUEUE_REQUESTS_MAX = 1024
"""Requests that wait for the batcher. Beyond that Triton answers UNAVAILABLE instead of growing."""


class Backend(Enum):
    """What runs the ONNX file. The wheel's server has only `PYTHON`; NVIDIA's image has both."""

    PYTHON = "python"
    ONNXRUNTIME = "onnxruntime"


class InvalidModel(InvalidArgument):
    """This model version cannot be served. Starting again cannot help."""

    reason = "MODEL_NOT_SERVABLE"


def model_file(paths: Iterable[str]) -> str:
    """The ONNX file among a version's files: `model.onnx`, or the only one that ends in `.onnx`."""
    candidates = sorted(path for path in paths if path.endswith(".onnx"))
    if "model.onnx" in candidates:
        return "model.onnx"
    if len(candidates) == 1:
        return candidates[0]
    found = ", ".join(candidates) or "none"
    raise InvalidModel(f"a served model version needs one .onnx file or a `model.onnx`; found: {found}")


def artifact_path(path: str) -> PurePosixPath:
    """`path` below the model's directory. Refuses what would leave the artifacts directory."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts or "\x00" in path or "\\" in path:
        raise InvalidModel(f"model file path {path!r} must be relative, with forward slashes and no `..`")
    return PurePosixPath(VERSION, ARTIFACTS) / pure


def config_text(
    spec: ReplicaSpec, file: str, backend: Backend, *, instances: int, threads: int, gpu: bool
) -> str:
    """The model's `config.pbtxt`.

    Complete, because the server runs without auto-completion (0.2 s instead of 1.5 s a load). The
    warm-up makes Triton run every instance once before it calls the model ready.

    Args:
        file: The ONNX file, relative to the artifacts.
        instances: Copies of the model that run at the same time.
        threads: Threads of one instance's operators.
    """
    signature = spec.signature
    if not signature.inputs or not signature.outputs:
        raise InvalidModel("the signature names no inputs or no outputs")
    for tensor in (*signature.inputs, *signature.outputs):
        if tensor.datatype not in ELEMENT_BYTES:
            known = ", ".join(ELEMENT_BYTES)
            raise InvalidModel(f"tensor {tensor.name!r} is {tensor.datatype}; servable are {known}")
    lines = [
        f"name: {_quote(spec.deployment_id)}",
        f'backend: "{backend.value}"',
        f"max_batch_size: {signature.max_batch_size}",
        *(f"input {{ {fields(each)} }}" for each in signature.inputs),
        *(f"output {{ {fields(each)} }}" for each in signature.outputs),
        f"instance_group {{ kind: {'KIND_GPU' if gpu else 'KIND_CPU'} count: {instances} }}",
        f"model_warmup {{ {_warmup(spec)} }}",
    ]
    if signature.max_batch_size and spec.batch_delay_micros:
        lines.append(
            f"dynamic_batching {{ max_queue_delay_microseconds: {spec.batch_delay_micros}"
            f" default_queue_policy {{ max_queue_size: {QUEUE_REQUESTS_MAX} }} }}"
        )
    parameters = {"revision": spec.revision, "manifest_sha256": spec.manifest_sha256}
    if backend is Backend.PYTHON:
        if spec.payload_log is not None:
            parameters |= {"payload_log": json.dumps(asdict(spec.payload_log))}
        parameters |= {"model_file": f"{ARTIFACTS}/{file}", "threads": str(threads)}
    elif spec.payload_log is not None:
        raise InvalidModel(
            "payload_log needs Triton's Python backend: this server runs ONNX files without it"
        )
    else:
        parameters |= {"intra_op_thread_count": str(threads)}
        lines.append(f"default_model_filename: {_quote(f'{ARTIFACTS}/{file}')}")
    lines += [
        f"parameters {{ key: {_quote(key)} value {{ string_value: {_quote(value)} }} }}"
        for key, value in parameters.items()
    ]
    return "\n".join(lines) + "\n"


def fields(tensor: Tensor) -> str:
    """One input or output, as the configuration has it."""
    # Triton has no scalars: a rank-0 tensor is one element that is reshaped to nothing.
    dims = f"dims: {_list(tensor.shape)}" if tensor.shape else "dims: [1] reshape { shape: [] }"
    return f"name: {_quote(tensor.name)} data_type: {_datatype(tensor)} {dims}"


def _warmup(spec: ReplicaSpec) -> str:
    inputs = " ".join(
        f"inputs {{ key: {_quote(each.name)} value {{ data_type: {_datatype(each)}"
        f" dims: {_list([max(size, 1) for size in each.shape] or [1])} zero_data: true }} }}"
        for each in spec.signature.inputs
    )
    return f'name: "zeros" batch_size: 1 {inputs}'


def _datatype(tensor: Tensor) -> str:
    return "TYPE_STRING" if tensor.datatype == "BYTES" else f"TYPE_{tensor.datatype}"


def _list(values: Sequence[int]) -> str:
    return f"[{', '.join(str(value) for value in values)}]"


def line_of(key: str, text: str) -> str:
    """`key: "text"`."""
    return f"{key}: {_quote(text)}"


def _quote(text: str) -> str:
    """A protobuf text-format string; whatever is not plain ASCII becomes octal bytes."""
    return '"' + "".join(chr(b) if _plain(b) else f"\\{b:03o}" for b in text.encode()) + '"'


def _plain(byte: int) -> bool:
    return 32 <= byte < 127 and byte not in b'"\\'
