"""A language model in Triton's Python backend, copied into the model repository as `model.py`.

Runs in Triton's stub process, which has neither torch nor the weights: it passes text between Triton and the process that
has (`services.inference.replica.lm`), over a unix socket with a JSON object a line. When that process ends, so does this
one, and the replica with it.
"""

import itertools
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import stub
import triton_python_backend_utils as pb

SOCKET = "lm"
"""Relative to the working directory, as the spans' is."""


class TritonPythonModel:
    """What Triton's Python backend calls."""

    def initialize(self, args: dict[str, str]) -> None:
        stub.die_with_supervisor()
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        self._generates = parameters["kind"] == "generate"
        self._spans = stub.Spans({"aios.model": args["model_name"], "aios.revision": parameters["revision"]})
        self._tokens = Tokens(args["model_name"])
        self._weights = Weights()

    def execute(self, requests: list[Any]) -> list[Any] | None:
        if not self._generates:
            return self._embed(requests)
        for request in requests:
            Answer(request, self._weights, self._spans, self._tokens).begin()
        return None

    def _embed(self, requests: list[Any]) -> list[Any]:
        began = time.time_ns()
        texts = [[_decoded(each) for each in _input(request, "text_input").ravel()] for request in requests]
        found = self._weights.ask({"texts": [text for group in texts for text in group]})
        vectors = np.array(found["vectors"], np.float32)
        tokens = np.array(found["tokens"], np.int32)[:, None]
        self._tokens.add(int(tokens.sum()), 0)
        self._spans.send(map(stub.sampled_parent, requests), began, time.time_ns(), len(tokens), "")
        ends = np.cumsum([len(group) for group in texts])[:-1]
        return [
            pb.InferenceResponse([pb.Tensor("embedding", v), pb.Tensor("tokens", t)])
            for v, t in zip(np.split(vectors, ends), np.split(tokens, ends), strict=True)
        ]


class Tokens:
    """Counts tokens among Triton's own metrics; see `services.inference.replica.work`."""

    def __init__(self, model: str) -> None:
        # The families must live as long as their metrics.
        self._families = [
            pb.MetricFamily(
                name=f"aios_{kind}_tokens", description=f"{kind} tokens", kind=pb.MetricFamily.COUNTER
            )
            for kind in ("prompt", "completion")
        ]
        self._prompt, self._completion = (each.Metric(labels={"model": model}) for each in self._families)

    def add(self, prompt: int, completion: int) -> None:
        """Of one request, or of a batch of them."""
        self._prompt.increment(prompt)
        self._completion.increment(completion)


class Weights:
    """The connection to the process that has the model."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(SOCKET)
        self._numbers = itertools.count()
        self._heard: dict[int, Callable[[Mapping[str, Any]], bool]] = {}
        self._sending = threading.Lock()
        threading.Thread(target=self._listen, name="weights", daemon=True).start()

    def tell(self, asked: Mapping[str, Any], hear: Callable[[Mapping[str, Any]], bool]) -> int:
        """Ask, and have `hear` called with each answer until it returns True. Returns the request's number."""
        number = next(self._numbers)
        self._heard[number] = hear
        self._send({"id": number, **asked})
        return number

    def ask(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """Ask, and wait for the one answer."""
        found: list[Mapping[str, Any]] = []
        there = threading.Event()

        def hear(answer: Mapping[str, Any]) -> bool:
            found.append(answer)
            there.set()
            return True

        self.tell(asked, hear)
        there.wait()
        return found[0]

    def cancel(self, number: int) -> None:
        """Nobody waits for the rest."""
        self._heard.pop(number, None)
        self._send({"id": number, "cancel": True})

    def _send(self, message: Mapping[str, Any]) -> None:
        with self._sending:
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def _listen(self) -> None:
        try:
            for line in self._socket.makefile("rb"):
                answer = json.loads(line)
                hear = self._heard.get(answer["id"])
                if hear is not None and hear(answer):
                    self._heard.pop(answer["id"], None)
        finally:
            os._exit(1)  # without the weights there is nothing to serve


class Answer:
    """One request of text, answered in one response, or in one for each piece where it asks for a stream."""

    def __init__(self, request: Any, weights: Weights, spans: Any, tokens: Tokens) -> None:
        self._sender = request.get_response_sender()
        self._parent = stub.sampled_parent(request)
        self._weights, self._spans, self._tokens = weights, spans, tokens
        self._text = ""
        self._number = -1
        self._began = time.time_ns()
        self._request = request

    def begin(self) -> None:
        try:
            prompt = _decoded(_input(self._request, "text_input")[0])
            given = pb.get_input_tensor_by_name(self._request, "sampling_parameters")
            parameters = json.loads(_decoded(given.as_numpy()[0])) if given is not None else {}
            if not isinstance(parameters, dict):
                raise ValueError("sampling_parameters must be a JSON object")
            self._stream = parameters.get("stream") is True
        except (ValueError, RecursionError, IndexError) as error:
            self._fail(f"sampling_parameters: {error}", wrong=True)
            return
        finally:
            self._request = None
        self._number = self._weights.tell({"prompt": prompt, "parameters": parameters}, self._hear)

    def _hear(self, said: Mapping[str, Any]) -> bool:
        if "error" in said:
            self._fail(said["error"], wrong=said["wrong"])
            return True
        finish = said["finish"]
        if not finish and self._sender.is_cancelled():
            self._weights.cancel(self._number)
            self._sender.send(flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            return True
        self._text += said["text"]
        if finish or self._stream:
            text, self._text = self._text, ""
            tensors = [
                _texts("text_output", text),
                _texts("finish_reason", finish),
                _number("prompt_tokens", said["prompt_tokens"]),
                _number("completion_tokens", said["completion_tokens"]),
            ]
            flags = pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL if finish else 0
            self._sender.send(pb.InferenceResponse(tensors), flags=flags)
        if finish:
            self._tokens.add(said["prompt_tokens"], said["completion_tokens"])
            self._spans.send([self._parent], self._began, time.time_ns(), 1, "")
        return bool(finish)

    def _fail(self, problem: str, *, wrong: bool) -> None:
        code = pb.TritonError.INVALID_ARG if wrong else pb.TritonError.INTERNAL
        response = pb.InferenceResponse(output_tensors=[], error=pb.TritonError(problem, code))
        self._sender.send(response, flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        self._spans.send([self._parent], self._began, time.time_ns(), 1, problem)


def _input(request: Any, name: str) -> Any:
    return pb.get_input_tensor_by_name(request, name).as_numpy()


def _decoded(text: Any) -> str:
    return bytes(text).decode(errors="replace")


def _texts(name: str, text: str) -> Any:
    return pb.Tensor(name, np.array([text.encode()], np.object_))


def _number(name: str, value: int) -> Any:
    return pb.Tensor(name, np.array([value], np.int32))
