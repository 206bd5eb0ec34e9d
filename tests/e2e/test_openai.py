"""The unmodified OpenAI client against a deployment: texts, streams, usage, vectors, and errors of its own kinds."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from aios.client import Client
from aios.common.v1.resources_pb2 import Resources
from tests.e2e.stack import Stack
from tests.e2e.test_main_path import Trace
from tests.service import language_models

pytestmark = pytest.mark.timeout(300)
HELLO: Any = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def models(aios: Stack, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Two language models, registered and deployed as a person does; the tests that follow get their room back."""
    for name, make in (("talks", language_models.causal), ("embeds", language_models.encoder)):
        aios.aios("model", "register", make(tmp_path_factory.mktemp(name)), name)
        resources = Resources(cpu_millis=250, memory_bytes=1 << 30)
        client.deployments.deploy(f"{name}/1", name, resources=resources)
    for name in ("talks", "embeds"):
        client.deployments.wait(name)
    yield
    for name in ("talks", "embeds"):
        client.deployments.delete(name)


@pytest.fixture(scope="module")
def ai(aios: Stack, models: None) -> Iterator[openai.OpenAI]:
    with openai.DefaultHttpxClient(trust_env=False, timeout=60) as http:
        yield openai.OpenAI(
            base_url=f"{aios.address}/v1", api_key=aios.token, max_retries=0, http_client=http
        )


def test_the_deployments_are_its_models(ai: openai.OpenAI) -> None:
    assert {"talks", "embeds"} <= {each.id for each in ai.models.list()}
    assert ai.models.retrieve("talks").owned_by == "default"


def test_a_chat_whole_and_as_a_stream_is_the_same(ai: openai.OpenAI) -> None:
    asked: Any = {"model": "talks", "messages": HELLO, "max_tokens": 24, "temperature": 0}
    whole = ai.chat.completions.create(**asked)
    *parts, last = ai.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})

    text = whole.choices[0].message.content
    assert text
    assert "".join(part.choices[0].delta.content or "" for part in parts) == text
    assert parts[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert len(parts) > 1, "it came in pieces"
    assert last.usage == whole.usage
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (len("user: Hello\nassistant:"), 24)


def test_a_text_goes_on_until_a_stop_sequence(ai: openai.OpenAI) -> None:
    asked: Any = {"model": "talks", "temperature": 0, "max_tokens": 24}
    both = ai.completions.create(**asked, prompt=["Once", "Twice"])
    text = both.choices[0].text
    stopped = ai.completions.create(**asked, prompt="Once", stop=[text[5:7]])

    assert len(both.choices) == 2
    assert stopped.choices[0].text == text[: text.find(text[5:7])]
    assert stopped.choices[0].finish_reason == "stop"


def test_texts_become_vectors(ai: openai.OpenAI) -> None:
    answer = ai.embeddings.create(model="embeds", input=["a", "bb", "a"])
    plain = ai.embeddings.create(model="embeds", input="bb", encoding_format="float")

    vectors = np.array([each.embedding for each in answer.data])
    assert vectors.shape == (3, 16)
    assert np.allclose(vectors[0], vectors[2], atol=1e-5)
    assert np.allclose(vectors[1], plain.data[0].embedding, atol=1e-5)
    assert answer.usage.prompt_tokens == 4


def test_a_request_is_one_trace_down_to_the_model(ai: openai.OpenAI, client: Client) -> None:
    answer = ai.chat.completions.with_raw_response.create(model="talks", messages=HELLO, max_tokens=2)

    assert answer.headers["x-aios-revision"] == "1"
    own = "HTTP POST /v1/chat/completions"
    trace = Trace.whole(client, answer.headers["x-aios-trace-id"], own, "predict talks", "model.compute")
    assert [service for service, _ in trace.path("model.compute")] == ["envoy", "envoy", "gateway", "triton"]
    assert ("gateway", own) in trace.path("predict talks")


@pytest.mark.parametrize(
    ("asked", "kind", "param"),
    [
        ({"model": "nobody"}, openai.NotFoundError, None),
        ({"model": "../talks"}, openai.NotFoundError, None),
        ({"temperature": 5}, openai.BadRequestError, "temperature"),
        ({"temperature": 5, "stream": True}, openai.BadRequestError, "temperature"),
        ({"messages": [{"role": "user", "content": "x" * 600}]}, openai.BadRequestError, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, openai.BadRequestError,
         "messages[0].content[0]"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, openai.BadRequestError, "tools"),
        ({"n": 2}, openai.BadRequestError, "n"),
    ],
)  # fmt: skip
def test_errors_are_of_its_own_kinds(
    ai: openai.OpenAI, asked: Any, kind: type[openai.APIStatusError], param: str | None
) -> None:
    with pytest.raises(kind) as refused:
        ai.chat.completions.create(**{"model": "talks", "messages": HELLO, "max_tokens": 4, **asked})
    assert refused.value.param == param
    assert refused.value.type == "invalid_request_error"


def test_no_token_no_answer(ai: openai.OpenAI, models: None) -> None:
    with pytest.raises(openai.AuthenticationError) as refused:
        ai.with_options(api_key="wrong").chat.completions.create(model="talks", messages=HELLO)
    assert refused.value.type == "authentication_error"


@pytest.mark.parametrize("body", ["[" * 1_000_000, '{"model": NaN}', "[]", '{"messages": '])
def test_hostile_json_is_refused(aios: Stack, models: None, body: str) -> None:
    with aios.http() as http:
        answer = http.post("/v1/chat/completions", content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "malformed_json")


def test_a_model_of_the_wrong_kind_is_told(ai: openai.OpenAI, client: Client, tmp_path: Path) -> None:
    with pytest.raises(openai.BadRequestError, match="makes no embeddings"):
        ai.embeddings.create(model="talks", input="x")
    answer = client.predictions.ask("embeds", ["a text"])
    assert len(answer.predictions[0].outputs["embedding"].list_value.values) == 16
