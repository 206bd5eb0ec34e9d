"""The unmodified OpenAI client against a language model's replica, with Triton's own port in the place of the door."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import openai
import pytest
from starlette.routing import Router

from gateway.http.app import serve
from gateway.openai.app import OpenAI
from services.inference.replica.install import install
from tests.service import language_models
from tests.service.replica_platform import RunningReplica, free_ports, replica

pytestmark = pytest.mark.timeout(300)
START_SECONDS = 120.0
HELLO: Any = [{"role": "user", "content": "Hello"}]
ASKED: Any = {"model": "digits", "messages": HELLO, "max_tokens": 24, "temperature": 0}


@asynccontextmanager
async def client(running: RunningReplica) -> AsyncIterator[openai.AsyncOpenAI]:
    """The gateway's application in front of a replica, and the client in front of that."""
    [port] = free_ports(1)
    async with grpc.aio.insecure_channel("127.0.0.1:1") as nobody:
        app = OpenAI({"identity": nobody, "inference": nobody}, f"127.0.0.1:{running.ports['HTTP']}")
        serving = asyncio.create_task(serve(Router(app.routes()), f"127.0.0.1:{port}"))
        http = openai.DefaultAsyncHttpxClient(trust_env=False, timeout=60)
        async with openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key="any", max_retries=2, http_client=http
        ) as found:
            yield found
        serving.cancel()
        await asyncio.wait({serving})
        await app.close()


async def test_an_unmodified_client_generates(tmp_path: Path) -> None:
    install(tmp_path / "triton")
    made = language_models.files(language_models.causal)
    async with replica(tmp_path, tmp_path / "triton", made, language_models.GENERATES) as running:
        await running.ready(START_SECONDS)
        async with client(running) as ai:
            whole = await ai.chat.completions.create(**ASKED)
            streamed = await ai.chat.completions.create(
                **ASKED, stream=True, stream_options={"include_usage": True}
            )
            *parts, last = [part async for part in streamed]
            both = await ai.completions.create(model="digits", prompt=["Once", "Twice"], temperature=0)
            text = both.choices[0].text
            stopped = await ai.completions.create(
                model="digits", prompt="Once", temperature=0, stop=[text[5:7]]
            )
            refused = {}
            wrong: list[dict[str, Any]] = [
                {"temperature": 5},
                {"temperature": 5, "stream": True},
                {"messages": [{"role": "user", "content": "x" * 600}]},
                {"tools": [{"type": "function", "function": {"name": "f"}}]},
                {"n": 2},
            ]
            for each in wrong:
                with pytest.raises(openai.BadRequestError) as error:
                    await ai.chat.completions.create(**{**ASKED, **each})
                refused[str(each)] = error.value.param
            with pytest.raises(openai.NotFoundError):
                await ai.chat.completions.create(**{**ASKED, "model": "../digits"})
            with pytest.raises(openai.BadRequestError, match="makes no embeddings"):
                await ai.embeddings.create(model="digits", input="x")

    assert "".join(part.choices[0].delta.content or "" for part in parts) == whole.choices[0].message.content
    assert len(parts) > 1, "it came in pieces"
    assert parts[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert last.usage == whole.usage
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (len("user: Hello\nassistant:"), 24)
    assert len(both.choices) == 2
    assert stopped.choices[0].text == text[: text.find(text[5:7])]
    assert stopped.choices[0].finish_reason == "stop"
    assert list(refused.values()) == ["temperature", "temperature", "messages", "tools", "n"]
