"""OpenAI's routes: `/v1/models`, `/v1/chat/completions`, `/v1/completions`, `/v1/embeddings`.

A model is a deployment of the token's project. Each request goes on through the public door by the Open Inference
Protocol, with the caller's own token: who may, which revision answers, limits and traces are decided there, once.
The JSON API's own paths below `/v1` begin with a collection of ours (`/v1/projects/...`), and none is one of these.
"""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import grpc
import httpx
import numpy as np
from opentelemetry.trace import SpanKind
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from aios.errors import AiosError, DeadlineExceeded, InvalidArgument, NotFound, Unavailable
from aios.identity.v1.identity_service_pb2 import GetCallerRequest
from aios.identity.v1.identity_service_pb2_grpc import IdentityServiceStub
from aios.inference.v1 import inference_service_pb2 as pb
from aios.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from aios.names import DeploymentName, check_id
from aios.runtime import telemetry
from aios.runtime.peers import Peer
from aios.tensors import LENGTH, REVISION, decode, encode, error_of, head_bytes
from gateway.http import problems
from gateway.http.exchange import BODY_BYTES_MAX, authorization
from gateway.http.pages import Stated, asked_by
from gateway.http.problems import MethodNotAllowed
from gateway.openai import replies, requests
from gateway.openai.requests import Generate, WrongRequest

PREDICT_SECONDS = 300.0  # between two pieces of an answer; the door's own limit
CONNECT_SECONDS = 2.0
CONNECTIONS_MAX = 256
PAGE_SIZE = 500
TEXTS_AT_ONCE = 32
"""Texts of one request to a model: what embedding models are registered with takes twice that."""

DECOUPLED = "decoupled transaction policy"
"""How Triton says that a model answers in streams."""

SERVICE = "/aios.inference.v1.InferenceService"
PREDICT = "predictions.create"
"""What the door asks of whoever predicts."""
Answer = Callable[[Request], Awaitable[Response]]


class OpenAI:
    """The routes' handlers.

    Args:
        door: Envoy, as `host:port`.
        peer: Who this is, where the door speaks TLS.
    """

    def __init__(self, channels: Mapping[str, grpc.aio.Channel], door: str, peer: Peer | None = None) -> None:
        self._identity = IdentityServiceStub(channels["identity"])
        self._inference = InferenceServiceStub(channels["inference"])
        self._http = httpx.AsyncClient(
            base_url=f"{'https' if peer else 'http'}://{door}",
            trust_env=False,
            verify=peer.client_context() if peer else False,  # plain text: no certificates to load
            timeout=httpx.Timeout(PREDICT_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=CONNECTIONS_MAX),
        )

    def routes(self) -> list[Stated]:
        """For the gateway's router."""
        return [
            _route("/v1/models", "GET", asked_by(f"{SERVICE}/ListDeployments"), self._models),
            _route("/v1/models/{model}", "GET", asked_by(f"{SERVICE}/GetDeployment"), self._model),
            _route("/v1/chat/completions", "POST", PREDICT, self._chat),
            _route("/v1/completions", "POST", PREDICT, self._completions),
            _route("/v1/embeddings", "POST", PREDICT, self._embeddings),
        ]

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _models(self, request: Request) -> Response:
        metadata = authorization(request.headers)
        caller = await self._identity.GetCaller(GetCallerRequest(), metadata=metadata)
        asked = pb.ListDeploymentsRequest(parent=caller.project, page_size=PAGE_SIZE)
        found: list[dict[str, Any]] = []
        while True:
            page = await self._inference.ListDeployments(asked, metadata=metadata)
            found += [_model_of(each) for each in page.deployments if each.live_revision]
            if not page.next_page_token:
                return JSONResponse({"object": "list", "data": found})
            asked.page_token = page.next_page_token

    async def _model(self, request: Request) -> Response:
        metadata = authorization(request.headers)
        caller = await self._identity.GetCaller(GetCallerRequest(), metadata=metadata)
        name = f"{caller.project}/deployments/{_checked(request.path_params['model'])}"
        found = await self._inference.GetDeployment(pb.GetDeploymentRequest(name=name), metadata=metadata)
        return JSONResponse(_model_of(found))

    async def _chat(self, request: Request) -> Response:
        return await self._generate(request, requests.chat(await _body(request)), is_chat=True)

    async def _completions(self, request: Request) -> Response:
        return await self._generate(request, requests.completion(await _body(request)), is_chat=False)

    async def _generate(self, request: Request, asked: Generate, *, is_chat: bool) -> Response:
        path = f"/v2/models/{_checked(asked.model)}"
        headers = _headers(request)
        shape = replies.Shape(
            is_chat=is_chat, number=secrets.token_hex(12), model=asked.model, created=int(time.time())
        )
        # Triton makes no parameters of this path's headers: what it does not know in the body it passes on as one.
        traced = {"traceparent": headers["traceparent"]} if "traceparent" in headers else {}
        bodies = [
            {**traced, "text_input": prompt, "sampling_parameters": json.dumps(asked.parameters)}
            for prompt in asked.prompts
        ]
        if asked.stream:
            return await self._stream(
                f"{path}/generate_stream", bodies[0], headers, shape, asked.include_usage
            )
        answers = await asyncio.gather(
            *(self._post(f"{path}/generate", headers, json=each) for each in bodies)
        )
        return JSONResponse(shape.whole([each.json() for each in answers]), headers=_revision(answers[0]))

    async def _stream(
        self, path: str, body: Any, headers: Mapping[str, str], shape: replies.Shape, include_usage: bool
    ) -> Response:
        stack = AsyncExitStack()
        try:
            sending = self._http.stream("POST", path, json=body, headers=headers)
            answer = await stack.enter_async_context(_Told(sending))
            if not answer.is_success:
                await answer.aread()
                raise _refused(answer)
            pieces = _pieces(answer)
            # What is wrong with a request is said before the first token, with a status of its own.
            first = await anext(pieces)
            if "error" in first:
                raise WrongRequest("", str(first["error"]))
        except BaseException:
            await stack.aclose()
            raise

        async def events() -> AsyncIterator[bytes]:
            async with stack:
                said = first
                yield replies.event(shape.piece(said, first=True))
                async for said in pieces:
                    if "error" in said:
                        yield replies.event(replies.error(str(said["error"]), "server_error"))
                        return
                    yield replies.event(shape.piece(said, first=False))
                if include_usage:
                    yield replies.event(shape.total(said))
                yield replies.DONE

        headers = {"cache-control": "no-store", **_revision(answer)}
        return StreamingResponse(events(), headers=headers, media_type="text/event-stream")

    async def _embeddings(self, request: Request) -> Response:
        asked = requests.embedding(await _body(request))
        path, headers = f"/v2/models/{_checked(asked.model)}/infer", _headers(request)
        vectors: list[Any] = []
        tokens, answer = 0, None
        for start in range(0, len(asked.texts), TEXTS_AT_ONCE):
            texts = asked.texts[start : start + TEXTS_AT_ONCE]
            head, raw = encode({"text_input": ("BYTES", np.array(texts, dtype="O")[:, None])})
            sent = {**headers, LENGTH: str(len(head)), "content-type": "application/octet-stream"}
            answer = await self._post(path, sent, content=head + raw)
            _, outputs = decode(answer.content, head_bytes(answer))
            if "embedding" not in outputs:
                raise WrongRequest("model", f"{asked.model} makes no embeddings", "model_not_supported")
            vectors += list(outputs["embedding"])
            tokens += int(outputs["tokens"].sum())
        assert answer is not None
        body = replies.embeddings(asked.model, vectors, tokens, as_base64=asked.as_base64)
        return JSONResponse(body, headers=_revision(answer))

    async def _post(self, path: str, headers: Mapping[str, str], **body: Any) -> httpx.Response:
        try:
            answer = await self._http.post(path, headers=headers, **body)
        except httpx.TimeoutException:
            raise DeadlineExceeded("The model did not answer in time.") from None
        except httpx.TransportError:
            raise Unavailable("The way to the model is closed for a moment: try again.") from None
        if not answer.is_success:
            raise _refused(answer)
        return answer


def _route(path: str, method: str, permission: str, answer: Answer) -> Stated:
    taken = ("GET", "HEAD") if method == "GET" else (method,)

    async def checked(request: Request) -> Response:
        if request.method not in taken:
            allow = ", ".join(taken)
            raise MethodNotAllowed(f"{path} does not take {request.method}: use {method}", allow=allow)
        return await answer(request)

    return Stated(path, {method: permission}, _guarded(checked))


def _guarded(answer: Answer) -> Answer:
    """`answer`, in a span, with errors in OpenAI's shape."""

    async def guarded(request: Request) -> Response:
        incoming = request.headers.get("traceparent", "")
        traceparent = incoming if telemetry.trace_id_of(incoming) else telemetry.unsampled_traceparent()
        name = f"HTTP {request.method} {request.url.path}"
        with telemetry.span(name, traceparent=traceparent, kind=SpanKind.SERVER):
            try:
                return await answer(request)
            except WrongRequest as wrong:
                body = replies.error(str(wrong), "invalid_request_error", wrong.param, wrong.code)
                return JSONResponse(body, 400)
            except AiosError as error:
                body = replies.error_of(error)
                return JSONResponse(body, problems.status(error), dict(_retry(error)))

    return guarded


class _Told:
    """An answer that streams, whose failures to begin are the catalogue's."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __aenter__(self) -> httpx.Response:
        try:
            found: httpx.Response = await self._stream.__aenter__()
        except httpx.TimeoutException:
            raise DeadlineExceeded("The model did not answer in time.") from None
        except httpx.TransportError:
            raise Unavailable("The way to the model is closed for a moment: try again.") from None
        return found

    async def __aexit__(self, *error: Any) -> Any:
        return await self._stream.__aexit__(*error)


def _refused(answer: httpx.Response) -> Exception:
    """What is wrong with a request, as the door or the model said it."""
    error = error_of(answer)
    model = str(answer.url.path).split("/")[3]
    if isinstance(error, NotFound):
        return NotFound(f"There is no model {model!r} in your token's project.", reason="MODEL_NOT_FOUND")
    if DECOUPLED in error.message:
        return WrongRequest("model", f"{model} generates text and makes no embeddings", "model_not_supported")
    param, colon, problem = error.message.partition(": ")
    if isinstance(error, InvalidArgument) and colon and param.replace("_", "").isalpha():
        return WrongRequest(param, problem)
    return error


async def _pieces(answer: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """Triton's events. A connection that breaks is an error like one that the model tells of."""
    try:
        async for line in answer.aiter_lines():
            if line.startswith("data:"):
                yield json.loads(line.removeprefix("data:"))
    except httpx.TransportError:
        yield {"error": "the model's answer was cut: ask again"}


async def _body(request: Request) -> dict[str, Any]:
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > BODY_BYTES_MAX:
            raise WrongRequest("", f"the body is larger than {BODY_BYTES_MAX} bytes", "body_too_large")
        chunks.append(chunk)
    return requests.parse(b"".join(chunks))


def _headers(request: Request) -> dict[str, str]:
    said = {**dict(authorization(request.headers)), "traceparent": telemetry.current_traceparent()}
    return {name: value for name, value in said.items() if value}


def _revision(answer: httpx.Response) -> dict[str, str]:
    return {REVISION: answer.headers[REVISION]} if REVISION in answer.headers else {}


def _checked(model: str) -> str:
    """A deployment's id: it becomes part of a path."""
    try:
        return check_id(model, "model")
    except AiosError:
        raise NotFound(f"There is no model {model[:80]!r} here.", reason="MODEL_NOT_FOUND") from None


def _model_of(deployment: Any) -> dict[str, Any]:
    name = DeploymentName.parse(deployment.name)
    created = deployment.create_time.seconds
    return {"id": name.deployment, "object": "model", "created": created, "owned_by": name.project}


def _retry(error: AiosError) -> Mapping[str, str]:
    if error.retry_after is None:
        return {}
    return {"retry-after": f"{max(1, round(error.retry_after.total_seconds()))}"}
