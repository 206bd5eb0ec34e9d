"""What OpenAI's clients ask, read strictly. Pure.

Source: the OpenAPI document of OpenAI's API. What we do not do is refused by name, never ignored: an answer that left a
tool or a format out would be wrong, not less.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DEPTH_MAX = 64
PROMPTS_MAX, TEXTS_MAX = 16, 2048

Json = Mapping[str, Any]

_HARMLESS = frozenset(
    {"user", "metadata", "store", "safety_identifier", "prompt_cache_key", "service_tier", "model"}
)
"""Parameters that change nothing in an answer."""
_NEUTRAL: Mapping[str, Sequence[Any]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "logprobs": (False, 0),
    "top_logprobs": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "dimensions": (),
}
"""Parameters that are taken with the values which change nothing."""
_SAMPLING = ("temperature", "top_p", "stop", "seed")


class WrongRequest(Exception):
    """The request is wrong, and which parameter."""

    def __init__(self, param: str, problem: str, code: str = "invalid_value") -> None:
        super().__init__(f"{param}: {problem}" if param else problem)
        self.param, self.code = param or None, code


@dataclass(frozen=True)
class Generate:
    """A request for text."""

    model: str
    prompts: Sequence[str]
    """One alone where there are messages."""
    parameters: Json
    """As the model's replica takes them."""
    stream: bool
    include_usage: bool


@dataclass(frozen=True)
class Embed:
    """A request for vectors."""

    model: str
    texts: Sequence[str]
    as_base64: bool


def parse(body: bytes) -> dict[str, Any]:
    """
    Raises:
        WrongRequest: it is no JSON object.
    """
    try:
        value = json.loads(body, parse_constant=_no_constant)
    except RecursionError:
        raise WrongRequest("", "the body is nested too deep", "malformed_json") from None
    except ValueError as error:
        raise WrongRequest("", f"the body is not JSON: {error}", "malformed_json") from None
    if not isinstance(value, dict):
        raise WrongRequest("", "the body must be a JSON object", "malformed_json")
    return value


def chat(body: Json) -> Generate:
    """A request to `/chat/completions`.

    Raises:
        WrongRequest
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise WrongRequest("messages", "must be an array of at least one message")
    said = [_message(each, f"messages[{index}]") for index, each in enumerate(messages)]
    most = body.get("max_completion_tokens", body.get("max_tokens"))
    return _generate(
        body, [""], {"messages": said}, most, {"messages", "max_completion_tokens", "max_tokens"}
    )


def completion(body: Json) -> Generate:
    """A request to `/completions`.

    Raises:
        WrongRequest
    """
    prompts = _texts(body.get("prompt"), "prompt", PROMPTS_MAX)
    if body.get("stream") and len(prompts) > 1:
        raise WrongRequest("prompt", "must be one text for a stream")
    most = body.get("max_tokens")
    return _generate(body, prompts, {}, 16 if most is None else most, {"prompt", "max_tokens"})


def embedding(body: Json) -> Embed:
    """A request to `/embeddings`.

    Raises:
        WrongRequest
    """
    _check_known(body, {"input", "encoding_format"})
    form = body.get("encoding_format") or "float"
    if form not in ("float", "base64"):
        raise WrongRequest("encoding_format", "must be float or base64")
    return Embed(_model(body), _texts(body.get("input"), "input", TEXTS_MAX), form == "base64")


def _generate(body: Json, prompts: Sequence[str], parameters: Json, most: Any, own: set[str]) -> Generate:
    _check_known(body, own | {*_SAMPLING, "stream", "stream_options"})
    stream, options = body.get("stream") or False, body.get("stream_options") or {}
    if not isinstance(stream, bool):
        raise WrongRequest("stream", "must be true or false")
    if not isinstance(options, dict) or options.keys() - {"include_usage", "include_obfuscation"}:
        raise WrongRequest("stream_options", "must be an object with include_usage")
    sampling = {name: body[name] for name in _SAMPLING if body.get(name) is not None}
    limit = {} if most is None else {"max_tokens": most}
    if most is not None and (not isinstance(most, int) or isinstance(most, bool) or most < 1):
        raise WrongRequest("max_tokens", "must be an integer of at least 1")
    asked = {**parameters, **sampling, **limit, "stream": stream}
    return Generate(_model(body), prompts, asked, stream, bool(options.get("include_usage")))


def _check_known(body: Json, known: set[str]) -> None:
    for name, value in body.items():
        if name in known or name in _HARMLESS or value is None:
            continue
        if name not in _NEUTRAL:
            raise WrongRequest(name[:80], "is not supported here: leave it out", "unsupported_parameter")
        if not any(
            value == each and isinstance(value, bool) == isinstance(each, bool) for each in _NEUTRAL[name]
        ):
            raise WrongRequest(
                name, "is not supported here with this value: leave it out", "unsupported_value"
            )


def _model(body: Json) -> str:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise WrongRequest("model", "must be the name of a deployment")
    return model


def _message(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, dict) or not isinstance(value.get("role"), str):
        raise WrongRequest(where, "must be an object with role and content")
    content = value.get("content")
    if isinstance(content, list):
        for index, part in enumerate(content):
            if (
                not isinstance(part, dict)
                or part.get("type") != "text"
                or not isinstance(part.get("text"), str)
            ):
                raise WrongRequest(
                    f"{where}.content[{index}]", "must be a text part: the model reads nothing else"
                )
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise WrongRequest(f"{where}.content", "must be a text")
    # OpenAI's newer name for what every chat template calls system.
    return {"role": "system" if value["role"] == "developer" else value["role"], "content": content}


def _texts(value: Any, name: str, most: int) -> Sequence[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not 1 <= len(texts) <= most:
        raise WrongRequest(name, f"must be a text or 1 to {most} of them")
    if not all(isinstance(each, str) for each in texts):
        raise WrongRequest(name, "must be texts: token numbers are not taken")
    return texts


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")
