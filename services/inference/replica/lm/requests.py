"""What is asked of a language model, checked. Needs neither torch nor a model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_TOKENS_DEFAULT = 512
STOPS_MAX, STOP_CHARACTERS_MAX = 16, 200


class WrongRequest(ValueError):
    """What was asked cannot be done, and why. The message names the parameter."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen, and when there is none."""

    max_tokens: int = MAX_TOKENS_DEFAULT
    temperature: float = 1.0
    """0 takes the likeliest token."""
    top_p: float = 1.0
    """Of the likeliest tokens that have this probability together."""
    stop: tuple[str, ...] = ()
    seed: int | None = None


@dataclass(frozen=True)
class Ask:
    """One request."""

    prompt: str
    messages: Sequence[Mapping[str, str]]
    """Instead of a prompt: turns of a conversation, put into text by the model's own template."""
    sampling: Sampling
    stream: bool


def read(prompt: str, parameters: Mapping[str, Any]) -> Ask:
    """A request from its parts.

    Raises:
        WrongRequest: naming the parameter.
    """
    unknown = parameters.keys() - {"messages", "stream", *Sampling.__dataclass_fields__}
    if unknown:
        raise WrongRequest(f"{sorted(unknown)[0]}: unknown parameter")
    stop = parameters.get("stop") or ()
    stop = (stop,) if isinstance(stop, str) else stop
    if not isinstance(stop, list | tuple) or len(stop) > STOPS_MAX:
        raise WrongRequest(f"stop: must be a text or at most {STOPS_MAX} of them")
    if not all(isinstance(each, str) and 0 < len(each) <= STOP_CHARACTERS_MAX for each in stop):
        raise WrongRequest(f"stop: must be texts of 1 to {STOP_CHARACTERS_MAX} characters")
    seed = parameters.get("seed")
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):
        raise WrongRequest("seed: must be an integer")
    sampling = Sampling(
        max_tokens=int(_number(parameters, "max_tokens", MAX_TOKENS_DEFAULT, 0, 1_000_000, whole=True)),
        temperature=_number(parameters, "temperature", 1.0, 0, 2),
        top_p=_number(parameters, "top_p", 1.0, 0, 1),
        stop=tuple(stop),
        seed=seed,
    )
    return Ask(prompt, _messages(parameters.get("messages")), sampling, bool(parameters.get("stream")))


def _number(
    parameters: Mapping[str, Any], name: str, default: float, low: float, high: float, *, whole: bool = False
) -> float:
    value = parameters.get(name)
    if value is None:
        return default
    kind = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not kind or not math.isfinite(value) or not low <= value <= high:
        raise WrongRequest(f"{name}: must be {'an integer' if whole else 'a number'} of {low} to {high}")
    return float(value)


def _messages(value: Any) -> Sequence[Mapping[str, str]]:
    if value is None:
        return ()
    if not isinstance(value, list) or not value:
        raise WrongRequest("messages: must be an array of at least one message")
    for index, each in enumerate(value):
        if not isinstance(each, dict) or not isinstance(each.get("role"), str):
            raise WrongRequest(f"messages[{index}]: must be an object with role and content")
        if not isinstance(each.get("content"), str):
            raise WrongRequest(f"messages[{index}].content: must be a text")
    return value
