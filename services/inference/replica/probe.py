"""Liveness by an inference: Triton stays `ready` after its model's process was killed, and answers 500 to all."""

import json
from collections.abc import Awaitable, Callable

import httpx

from aios.errors import Unavailable
from services.inference.replica.server import LOOPBACK
from services.inference.replica.spec import Signature, zero_bytes
from services.inference.replica.work import work_of
from services.inference.work import Work

INTERVAL_SECONDS = 1.0
TIMEOUT_SECONDS = 1.0
"""Of one probe, at the least."""

SLOW_MODEL_FACTOR = 10
"""A probe may take this many times what the warm model took when nothing else ran."""

FAILURES_MAX = 2
"""In a row; one alone may be a hiccup of the machine."""


NO_TOKENS = (json.dumps({"text_input": "", "sampling_parameters": '{"max_tokens": 0}'}).encode(), 0)
"""Asks a model that generates text, which says so as long as it makes steps: a token would wait for all other prompts."""


class ProbeFailed(Unavailable):
    """The model does not answer."""

    reason = "PROBE_FAILED"


class Probe:
    """Asks one model on one local Triton server for a prediction of zeros."""

    def __init__(
        self, host: str, port: int, model: str, signature: Signature, *, generates: bool = False
    ) -> None:
        base = f"http://{host}:{port}/v2/models/{model}"
        # Plain HTTP: without `verify=False` 0.1 s of the start goes into loading certificates.
        self._http = httpx.AsyncClient(base_url=base, trust_env=False, verify=False)  # noqa: S501
        self._model = model
        self._path = "/generate" if generates else "/infer"
        self._body, self._json_bytes = NO_TOKENS if generates else zeros_request(signature)

    async def ask(self, timeout: float) -> None:
        """One inference.

        Raises:
            ProbeFailed: No answer within `timeout` seconds, or an error for an answer.
        """
        headers = {"inference-header-content-length": str(self._json_bytes)} if self._json_bytes else {}
        try:
            answer = await self._http.post(self._path, content=self._body, headers=headers, timeout=timeout)
        except httpx.TransportError as error:
            problem = f"{type(error).__name__} within {timeout:.1f} s"
            raise ProbeFailed(f"the model does not answer: {problem}") from error
        if answer.status_code != httpx.codes.OK:
            raise ProbeFailed(f"the model does not answer: HTTP {answer.status_code}, {answer.text[:500]}")

    async def completed(self) -> int:
        """Requests that the model has answered so far; -1 if the server does not say."""
        try:
            answer = await self._http.get("/stats", timeout=TIMEOUT_SECONDS)
            return int(answer.json()["model_stats"][0]["inference_stats"]["success"]["count"])
        except (httpx.TransportError, ValueError, LookupError):
            return -1

    async def work(self, metrics_port: int) -> Work | None:
        """What the model has done so far; None if the server does not say."""
        try:
            answer = await self._http.get(
                f"http://{LOOPBACK}:{metrics_port}/metrics", timeout=TIMEOUT_SECONDS
            )
            return work_of(answer.text, self._model)
        except (httpx.TransportError, ValueError):
            return None

    async def close(self) -> None:
        """Close the connection."""
        await self._http.aclose()


async def watch(probe: Probe, warm_seconds: float, sleep: Callable[[float], Awaitable[None]]) -> None:
    """Probe until the model stops answering.

    A probe that waits behind other people's requests is no failure: as long as the server completes
    requests between two probes, it is busy, not dead.

    Args:
        warm_seconds: What one probe took on the idle, warm model.

    Raises:
        ProbeFailed: `FAILURES_MAX` probes in a row went wrong and nothing was completed meanwhile.
    """
    timeout = max(TIMEOUT_SECONDS, SLOW_MODEL_FACTOR * warm_seconds)
    failures = 0
    while True:
        if not failures:
            await sleep(INTERVAL_SECONDS)
        before = await probe.completed()
        try:
            await probe.ask(timeout)
        except ProbeFailed:
            failures = 0 if await probe.completed() > before else failures + 1
            if failures >= FAILURES_MAX:
                raise
        else:
            failures = 0


def zeros_request(signature: Signature) -> tuple[bytes, int]:
    """The body of the smallest inference and the length of its JSON part.

    Source: Open Inference Protocol with Triton's binary tensor data extension.
    """
    inputs, data = [], b""
    for tensor, shape in signature.smallest_request():
        zeros = zero_bytes(tensor, shape)
        parameters = {"binary_data_size": len(zeros)}
        inputs.append(
            {"name": tensor.name, "datatype": tensor.datatype, "shape": shape, "parameters": parameters}
        )
        data += zeros
    # Binary outputs, so that a large answer is not spelled out in JSON for nobody to read.
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    return head + data, len(head)
