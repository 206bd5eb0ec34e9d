"""Language models without weights: text as it grows, what may be asked, which directories are one, OpenAI's requests."""

from typing import Any

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc.model_config_pb2 import ModelConfig

from aios.client import signatures
from gateway.http.app import services
from gateway.http.problems import PathNotFound
from gateway.http.rules import Routes
from gateway.openai import requests
from services.inference.replica import language
from services.inference.replica.language import GENERATION, Language
from services.inference.replica.lm.requests import WrongRequest, read
from services.inference.replica.lm.text import Writer
from services.inference.replica.repository import InvalidModel
from services.inference.replica.spec import ReplicaSpec, Signature, Tensor

FILES = ("config.json", "tokenizer.json", "model.safetensors")
EMBEDDING = Signature(
    (language.INPUT,), (Tensor("embedding", "FP32", (4,)), Tensor("tokens", "INT32", (1,))), 8
)


def spoken(text: str, stops: list[str]) -> tuple[list[str], Writer]:
    """Pieces of a text whose tokens are its bytes."""
    writer = Writer(lambda tokens: bytes(tokens).decode(errors="replace"), stops)
    pieces = []
    for token in text.encode():
        pieces.append(writer.add(token))
        if writer.stopped:
            break
    return [*pieces, writer.end()], writer


@given(st.text(max_size=40), st.lists(st.text("ab", min_size=1, max_size=3), max_size=2))
def test_pieces_are_the_text_up_to_the_first_stop(text: str, stops: list[str]) -> None:
    pieces, writer = spoken(text, stops)
    # The first that is whole ends the answer, though a longer one may have begun before it.
    read = next((text[:end] for end in range(len(text) + 1) if any(stop in text[:end] for stop in stops)), "")
    assert "".join(pieces) == (
        read[: min(read.find(stop) for stop in stops if stop in read)] if read else text
    )
    assert writer.stopped == bool(read)


def test_no_piece_is_half_a_character_or_part_of_a_stop() -> None:
    pieces, _ = spoken("aé<en>", ["<end>"])
    assert pieces == ["a", "", "é", "", "", "", "<en>", ""]


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": True}, "top_p"),
        ({"stop": ["x" * 201]}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"seed": "1"}, "seed"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
        ({"beams": 2}, "beams"),
    ],
)
def test_a_wrong_parameter_is_named(parameters: dict[str, Any], named: str) -> None:
    with pytest.raises(WrongRequest) as refused:
        read("x", parameters)
    assert str(refused.value).startswith(f"{named}:")


def test_a_directory_is_told_by_its_files_and_signature() -> None:
    assert language.language(FILES, GENERATION) is Language.GENERATE
    assert language.language(FILES, EMBEDDING) is Language.EMBED
    assert language.language(("model.onnx", "config.json"), GENERATION) is None
    with pytest.raises(InvalidModel, match=r"tokenizer\.json, \*\.safetensors"):
        language.language(("config.json", "pytorch_model.bin"), GENERATION)
    with pytest.raises(InvalidModel, match="aios model register"):
        language.language(FILES, Signature((), (), 0))


def test_what_the_client_registers_is_what_a_replica_serves() -> None:
    said = [(each.name, each.datatype, tuple(each.shape)) for each in signatures.GENERATION.inputs]
    assert said == [(each.name, each.datatype, each.shape) for each in GENERATION.inputs]
    told = [(each.name, each.datatype, tuple(each.shape)) for each in signatures.GENERATION.outputs]
    assert told == [(each.name, each.datatype, each.shape) for each in GENERATION.outputs]


def test_a_model_that_generates_is_decoupled_and_its_parameters_may_be_left_out() -> None:
    spec = ReplicaSpec("talks", "r/1", "m/1", GENERATION, 500, "00")
    made = text_format.Parse(language.config_text(spec, Language.GENERATE), ModelConfig())
    assert made.model_transaction_policy.decoupled
    assert [each.optional for each in made.input] == [False, True]
    assert made.parameters["kind"].string_value == "generate"


def test_neutral_parameters_are_taken_and_others_refused_by_name() -> None:
    said = {"model": "m", "messages": [{"role": "developer", "content": [{"type": "text", "text": "Hi"}]}]}
    neutral = {
        "n": 1,
        "user": "me",
        "tools": [],
        "logprobs": False,
        "logit_bias": None,
        "presence_penalty": 0.0,
    }
    asked = requests.chat({**said, "max_completion_tokens": 3, "stop": "x", **neutral})
    assert asked.parameters == {
        "messages": [{"role": "system", "content": "Hi"}], "stop": "x", "max_tokens": 3, "stream": False,
    }  # fmt: skip
    refusals: list[dict[str, Any]] = [
        {"n": 2}, {"n": True}, {"tools": [{}]}, {"response_format": {"type": "json_object"}}, {"beam": 1},
    ]  # fmt: skip
    for wrong in refusals:
        with pytest.raises(requests.WrongRequest) as refused:
            requests.chat({**said, **wrong})
        assert refused.value.param == next(iter(wrong))


@pytest.mark.parametrize("path", ["models", "models/m", "chat/completions", "completions", "embeddings"])
def test_no_path_of_our_own_api_is_one_of_openais(path: str) -> None:
    for method in ("GET", "POST"):
        with pytest.raises(PathNotFound):
            Routes(services()).find(method, f"/v1/{path}")
