"""An ONNX model in Triton's Python backend, copied into the model repository as `model.py`.

Runs in Triton's stub process, in the model environment (numpy 1.26, onnxruntime): it imports nothing
of the platform but what is copied beside it.
"""

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keep
import numpy as np
import onnxruntime as ort
import stub
import triton_python_backend_utils as pb
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

ORT_TYPES = {
    "TYPE_BOOL": "tensor(bool)",
    "TYPE_UINT8": "tensor(uint8)",
    "TYPE_UINT16": "tensor(uint16)",
    "TYPE_UINT32": "tensor(uint32)",
    "TYPE_UINT64": "tensor(uint64)",
    "TYPE_INT8": "tensor(int8)",
    "TYPE_INT16": "tensor(int16)",
    "TYPE_INT32": "tensor(int32)",
    "TYPE_INT64": "tensor(int64)",
    "TYPE_FP16": "tensor(float16)",
    "TYPE_FP32": "tensor(float)",
    "TYPE_FP64": "tensor(double)",
    "TYPE_STRING": "tensor(string)",
}


class NotText(Exception):
    """BYTES that a model of text cannot take."""


class TritonPythonModel:
    """What Triton's Python backend calls: `initialize` once, then `execute` for each batch."""

    def initialize(self, args: dict[str, str]) -> None:
        stub.die_with_supervisor()
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        options = ort.SessionOptions()
        options.intra_op_num_threads = int(parameters["threads"])
        options.inter_op_num_threads = 1
        # A replica shares its cores with training: idle threads sleep instead of spinning.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        file = Path(args["model_repository"], args["model_version"], parameters["model_file"])
        self._session = ort.InferenceSession(str(file), options, providers=ort.get_available_providers())
        self._inputs: list[dict[str, Any]] = config["input"]
        self._outputs: list[dict[str, Any]] = config["output"]
        self._batches: bool = config["max_batch_size"] > 0
        _check("input", self._inputs, self._session.get_inputs())
        _check("output", self._outputs, self._session.get_outputs())
        self._spans = stub.Spans({"aios.model": args["model_name"], "aios.revision": parameters["revision"]})
        self._keeper = keep.Keeper.of(parameters, batches=self._batches)

    def finalize(self) -> None:
        if self._keeper is not None:
            self._keeper.turn(time.time())
            self._keeper.end()

    def execute(self, requests: list[Any]) -> list[Any]:
        responses: list[Any] = [None] * len(requests)
        ready: dict[int, list[Any]] = {}
        for index, request in enumerate(requests):
            try:
                ready[index] = self._arrays(request)
            except NotText as error:
                responses[index] = _failed(error)
        for group in groups(ready, batches=self._batches):
            began = time.time_ns()
            failure = ""
            try:
                for index, outputs in zip(group, self._run([ready[i] for i in group]), strict=True):
                    responses[index] = self._response(outputs)
                    if self._keeper is not None and self._keeper.wants():
                        self._keep(requests[index], ready[index], outputs, began)
            except Exception as error:  # noqa: BLE001  # what the model raises belongs to these requests alone
                failure = str(error)
                for index in group:
                    responses[index] = _failed(error)
            rows = sum(len(ready[index][0]) for index in group) if self._batches else 1
            self._spans.send(
                (stub.sampled_parent(requests[index]) for index in group),
                began,
                time.time_ns(),
                rows,
                failure,
            )
        return responses

    def _arrays(self, request: Any) -> list[Any]:
        return [
            _text(pb.get_input_tensor_by_name(request, each["name"]).as_numpy(), each)
            for each in self._inputs
        ]

    def _run(self, requests: list[list[Any]]) -> list[list[Any]]:
        """The outputs of each request, from one call of the model."""
        one = len(requests) == 1
        inputs = requests[0] if one else [np.concatenate(column) for column in zip(*requests, strict=True)]
        feed = {each["name"]: array for each, array in zip(self._inputs, inputs, strict=True)}
        outputs = self._session.run([each["name"] for each in self._outputs], feed)
        if one:
            return [outputs]
        ends = np.cumsum([len(arrays[0]) for arrays in requests])[:-1]
        return [list(parts) for parts in zip(*(np.split(output, ends) for output in outputs), strict=True)]

    def _keep(self, request: Any, inputs: list[Any], outputs: list[Any], began: int) -> None:
        """Hand an answered request to the payload log. An answer is never worth its copy."""
        with contextlib.suppress(Exception):
            self._keeper.keep(
                request,
                {each["name"]: array for each, array in zip(self._inputs, inputs, strict=True)},
                {each["name"]: array for each, array in zip(self._outputs, outputs, strict=True)},
                began,
            )

    def _response(self, outputs: list[Any]) -> Any:
        named = zip(self._outputs, outputs, strict=True)
        return pb.InferenceResponse([pb.Tensor(each["name"], np.ascontiguousarray(o)) for each, o in named])


def groups(ready: Mapping[int, list[Any]], *, batches: bool) -> list[list[int]]:
    """Indices of the requests that can run as one batch: only their first dimensions differ."""
    if not batches:
        return [[index] for index in ready]
    alike: dict[Any, list[int]] = {}
    for index, arrays in ready.items():
        alike.setdefault(tuple(array.shape[1:] for array in arrays), []).append(index)
    return list(alike.values())


def _check(kind: str, wanted: Sequence[Mapping[str, Any]], found: Sequence[Any]) -> None:
    """Refuse a file whose tensors are not those of the signature: the load fails and says so."""
    types = {each.name: each.type for each in found}
    for tensor in wanted:
        name, kind_wanted = tensor["name"], ORT_TYPES[tensor["data_type"]]
        if types.get(name) != kind_wanted:
            raise pb.TritonModelException(
                f"the signature has {kind} {name!r} as {kind_wanted}, the ONNX file has {types}"
            )
    missing = types.keys() - {tensor["name"] for tensor in wanted}
    if kind == "input" and missing:
        raise pb.TritonModelException(
            f"the ONNX file needs inputs that the signature lacks: {sorted(missing)}"
        )


def _text(array: Any, tensor: Mapping[str, Any]) -> Any:
    """BYTES arrive as bytes; ONNX Runtime wants text."""
    if tensor["data_type"] != "TYPE_STRING":
        return array
    try:
        return np.array([item.decode() for item in array.ravel()], dtype=object).reshape(array.shape)
    except UnicodeDecodeError as error:
        raise NotText(f"input {tensor['name']!r} must be UTF-8 text: {error}") from error


def _failed(error: Exception) -> Any:
    """The answer to a request whose tensors are not what the model takes, or that the model could not compute."""
    wrong = isinstance(error, (NotText, InvalidArgument))
    code = pb.TritonError.INVALID_ARG if wrong else pb.TritonError.INTERNAL
    return pb.InferenceResponse(output_tensors=[], error=pb.TritonError(str(error), code))
