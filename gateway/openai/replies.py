"""Answers and errors in the shapes that OpenAI's clients read. Pure."""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from aios.errors import AiosError, Code

Json = dict[str, Any]

_TYPES = {
    Code.INVALID_ARGUMENT: "invalid_request_error",
    Code.FAILED_PRECONDITION: "invalid_request_error",
    Code.OUT_OF_RANGE: "invalid_request_error",
    Code.NOT_FOUND: "invalid_request_error",
    Code.UNAUTHENTICATED: "authentication_error",
    Code.PERMISSION_DENIED: "permission_error",
    Code.RESOURCE_EXHAUSTED: "rate_limit_error",
}
DONE = b"data: [DONE]\n\n"


def error(message: str, kind: str, param: str | None = None, code: str | None = None) -> Json:
    """An error's body."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_of(found: AiosError) -> Json:
    """An error of the catalogue."""
    return error(found.message, _TYPES.get(found.code, "server_error"), None, found.reason.lower())


def event(value: Any) -> bytes:
    """One event of a stream."""
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def usage(pieces: Sequence[Mapping[str, Any]]) -> Json:
    """Token counts of finished answers."""
    prompt = sum(each["prompt_tokens"] for each in pieces)
    completion = sum(each["completion_tokens"] for each in pieces)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


class Shape:
    """How one request is answered: as a chat, or as plain completions.

    Args:
        created: Seconds since 1970.
    """

    def __init__(self, *, is_chat: bool, number: str, model: str, created: int) -> None:
        self._chat = is_chat
        self._head = {
            "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{number}",
            "created": created,
            "model": model,
        }

    def whole(self, pieces: Sequence[Mapping[str, Any]]) -> Json:
        """Finished answers."""
        choices = [
            {
                "index": index,
                **(
                    {"message": {"role": "assistant", "content": each["text_output"], "refusal": None}}
                    if self._chat
                    else {"text": each["text_output"]}
                ),
                "logprobs": None,
                "finish_reason": each["finish_reason"],
            }
            for index, each in enumerate(pieces)
        ]
        kind = "chat.completion" if self._chat else "text_completion"
        return {**self._head, "object": kind, "choices": choices, "usage": usage(pieces)}

    def piece(self, said: Mapping[str, Any], *, first: bool) -> Json:
        """A part of a stream's answer."""
        text = said["text_output"]
        part: Json = {"text": text}
        if self._chat:
            part = {
                "delta": {**({"role": "assistant"} if first else {}), **({"content": text} if text else {})}
            }
        return self._part(
            [{"index": 0, **part, "logprobs": None, "finish_reason": said["finish_reason"] or None}]
        )

    def total(self, said: Mapping[str, Any]) -> Json:
        """A stream's last part, for those who asked for it."""
        return {**self._part([]), "usage": usage([said])}

    def _part(self, choices: Sequence[Json]) -> Json:
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        return {**self._head, "object": kind, "choices": choices}


def embeddings(model: str, vectors: Sequence[NDArray[Any]], tokens: int, *, as_base64: bool) -> Json:
    """Vectors, in the order of their texts."""

    def form(vector: NDArray[Any]) -> Any:
        packed = vector.astype("<f4")
        return base64.b64encode(packed.tobytes()).decode() if as_base64 else packed.tolist()

    return {
        "object": "list",
        "model": model,
        "data": [
            {"object": "embedding", "index": index, "embedding": form(vector)}
            for index, vector in enumerate(vectors)
        ],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
