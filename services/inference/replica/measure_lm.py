"""`python -m services.inference.replica.measure_lm`: what language models cost where they would be served.

As `services.inference.replica.measure`, for models that generate text: each gets a Triton server and a process for its
weights of its own, as a replica has them. The models are asked in turns, a round each: so many prompts at once, greedy.

request: {"models": {NAME: "FOLDER"}, "prompts": ["..."], "tokens": 32, "batches": [1, 8], "threads": 1}
answer:  {NAME: {"memory_bytes": 1, "texts": ["..."], "batches": {"8": {"p50_ms": 1.0, "p95_ms": 1.0, "p99_ms": 1.0,
          "rounds_ms": [1.0], "tokens_per_second": 1.0, "cpu_seconds_per_1000": 1.0}}}}

Latency is of a whole answer of `tokens`; `cpu_seconds_per_1000` is of tokens; `texts` are the answers to the prompts, one
after the other. Peak memory is of the process that holds the weights.
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from aios.config import Settings
from aios.errors import AiosError
from services.inference.replica import language, repository
from services.inference.replica.language import GENERATION, Language
from services.inference.replica.life import copy_runner, first_answer
from services.inference.replica.measure import (
    MODEL,
    TIMEOUT_SECONDS,
    cpu_seconds,
    free_port,
    peak_bytes,
    quantile,
    say,
)
from services.inference.replica.probe import Probe
from services.inference.replica.server import LOOPBACK, Ports, Server
from services.inference.replica.spec import ReplicaSpec
from services.inference.replica.triton import Triton, unpacked
from services.inference.replica.weights import Weights

ROUNDS = 4


@dataclass
class Costs:
    """Of one model with so many prompts at once. Seconds."""

    latencies: list[list[float]] = field(default_factory=list)
    """One list a round."""
    seconds: float = 0.0
    cpu: float = 0.0
    tokens: int = 0

    def told(self) -> dict[str, Any]:
        """The figures of the answer."""
        every = sorted(latency for each in self.latencies for latency in each)
        return {
            **{f"p{share}_ms": quantile(every, share / 100) * 1000 for share in (50, 95, 99)},
            "rounds_ms": [statistics.median(each) * 1000 for each in self.latencies],
            "tokens_per_second": self.tokens / self.seconds,
            "cpu_seconds_per_1000": self.cpu / self.tokens * 1000,
            "calls": len(every),
        }


class Served:
    """A language model on a server of its own."""

    def __init__(self, server: Server, weights: Weights, port: int) -> None:
        self._weights = psutil.Process(weights.pid)
        triton = psutil.Process(server.pid)
        self._processes = [self._weights, triton, *triton.children(recursive=True)]
        self._http = httpx.Client(
            base_url=f"http://{LOOPBACK}:{port}/v2/models/{MODEL}", trust_env=False, timeout=TIMEOUT_SECONDS
        )

    def ask(self, prompt: str, tokens: int) -> tuple[str, int, float]:
        """The likeliest continuation, how many tokens it has, and how long it took."""
        began = time.perf_counter()
        parameters = json.dumps({"temperature": 0, "max_tokens": tokens})
        sent = {"text_input": prompt, "sampling_parameters": parameters}
        answer = self._http.post("/generate", json=sent).raise_for_status().json()
        return str(answer["text_output"]), int(answer["completion_tokens"]), time.perf_counter() - began

    def cpu_seconds(self) -> float:
        """Of all its processes, since they were started."""
        return cpu_seconds(self._processes)

    def memory_bytes(self) -> int:
        """The most that the process which holds the weights has held at once."""
        return peak_bytes(self._weights)

    def close(self) -> None:
        """Hang up: the server waits for open connections."""
        self._http.close()


async def measure(request: Mapping[str, Any], settings: Settings, scratch: Path) -> dict[str, Any]:
    """The answer to a request."""
    triton = await unpacked(settings, say)
    async with AsyncExitStack() as stack:
        served = {}
        for number, (name, folder) in enumerate(request["models"].items()):
            place = scratch / str(number)
            served[name] = await _serve(stack, triton, Path(folder), place, request.get("threads", 1))
        return await asyncio.to_thread(_measured, served, request)


def _measured(served: Mapping[str, Served], request: Mapping[str, Any]) -> dict[str, Any]:
    prompts, tokens = request["prompts"], request["tokens"]
    texts = {name: [each.ask(prompt, tokens)[0] for prompt in prompts] for name, each in served.items()}
    costs = {batch: _rounds(served, prompts, tokens, batch) for batch in request["batches"]}
    return {
        name: {
            "memory_bytes": each.memory_bytes(),
            "texts": texts[name],
            "batches": {str(batch): costs[batch][name].told() for batch in request["batches"]},
        }
        for name, each in served.items()
    }


def _rounds(
    served: Mapping[str, Served], prompts: Sequence[str], tokens: int, batch: int
) -> dict[str, Costs]:
    """Every model in turns, so many prompts at once."""
    costs = {name: Costs() for name in served}
    with ThreadPoolExecutor(batch) as pool:
        for number in range(ROUNDS):
            asked = [prompts[(number + index) % len(prompts)] for index in range(batch)]
            for name, each in served.items():
                cost, before, began = costs[name], each.cpu_seconds(), time.perf_counter()
                found = list(pool.map(each.ask, asked, [tokens] * batch))
                cost.seconds += time.perf_counter() - began
                cost.cpu += each.cpu_seconds() - before
                cost.tokens += sum(count for _, count, _ in found)
                cost.latencies.append([seconds for _, _, seconds in found])
    return costs


async def _serve(stack: AsyncExitStack, triton: Triton, folder: Path, scratch: Path, threads: int) -> Served:
    """Start both processes as a replica does, and end them with the stack."""
    spec = ReplicaSpec(MODEL, MODEL, MODEL, GENERATION, 0, MODEL)
    place = scratch / "repository" / MODEL
    (place / repository.VERSION).mkdir(parents=True)
    (place / "config.pbtxt").write_text(language.config_text(spec, Language.GENERATE))
    copy_runner("text_model.py", place / repository.VERSION)
    ports = Ports(http=free_port(), grpc=free_port(), metrics=free_port())
    environment = triton.environment(threads, os.environ)
    check = Probe(LOOPBACK, ports.http, MODEL, GENERATION, generates=True)
    server = await Server.start(triton, place.parent, ports, environment)
    stack.push_async_callback(server.stop, 0)  # nobody else asks it, and a graceful end takes seconds
    weights = await Weights.start(Language.GENERATE, folder, scratch, environment)
    stack.push_async_callback(weights.stop)
    try:
        await first_answer(server, check, MODEL)
    finally:
        await check.close()
    served = Served(server, weights, ports.http)
    stack.callback(served.close)
    return served


def main() -> None:
    """Answer one request. Exit code 1 and a line on stderr where a model cannot be served."""
    try:
        with tempfile.TemporaryDirectory(prefix="measure-") as scratch:
            told = asyncio.run(measure(json.load(sys.stdin), Settings.load(), Path(scratch)))
    except AiosError as error:
        sys.exit(f"{error.reason}: {error.message}")
    print(json.dumps(told))


if __name__ == "__main__":
    main()
