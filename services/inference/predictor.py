"""Predictions for callers with plain values: checked here, forwarded through the public door, labelled here.

Through the door and with the caller's own token, so that weights, mirrors, retries, limits and the trace of a prediction
are the same whoever makes it.
"""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import httpx
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import ListValue, Value

from aios.common.v1.tensor_pb2 import Signature
from aios.config import Settings
from aios.errors import DeadlineExceeded, Internal, NotFound, Unavailable
from aios.inference.v1 import inference_service_pb2, prediction_pb2
from aios.names import DeploymentName, RevisionName
from aios.records import Database, Tx
from aios.runtime import gate, telemetry
from aios.runtime.context import principal
from aios.runtime.peers import Peer
from aios.tensors import LENGTH, REVISION, decode, encode, error_of, head_bytes
from services.inference import predict, store
from services.inference.revisions import Revision

CONNECTIONS_MAX = 256
"""As many as predictions of one deployment may be under way (`gateway.envoy.limits.PREDICTIONS_AT_ONCE`)."""
CONNECT_SECONDS = 2.0
MARGIN_SECONDS = 0.2
"""Of the caller's time, kept for the way back."""


class NoRevisionAnswers(Unavailable):
    """The deployment has no live revision yet. `aios deployment get` says why."""

    reason = "NO_REVISION_ANSWERS"


class Predictor:
    """Answers `Predict`."""

    def __init__(self, db: Database, http: httpx.AsyncClient) -> None:
        self._db = db
        self._http = http

    @classmethod
    async def open(cls, settings: Settings, db: Database, stack: AsyncExitStack) -> "Predictor":
        """One client of the door, closed with `stack`."""
        limits, peer = httpx.Limits(max_connections=CONNECTIONS_MAX, keepalive_expiry=30), Peer.of(settings)
        http = httpx.AsyncClient(
            base_url=f"{'https' if peer else 'http'}://{settings.envoy_address}",
            limits=limits,
            trust_env=False,
            verify=peer.client_context() if peer else False,  # plain text: no certificates to load
        )
        return cls(db, await stack.enter_async_context(http))

    async def predict(
        self, request: inference_service_pb2.PredictRequest, authorization: str, seconds: float
    ) -> inference_service_pb2.PredictResponse:
        """Ask the deployment.

        Args:
            authorization: The caller's, as it was sent.
            seconds: What is left of the caller's time.

        Raises:
            InvalidArgument: naming each value that the model does not take.
            NoRevisionAnswers: nothing is live.
        """
        name = DeploymentName.parse(request.name)
        if name.project != principal().project:
            # The door routes by the token's project, an operator's too.
            raise NotFound(f"{name} is not in the project of your token.", name=str(name))
        live = await self._db.read(lambda tx: _live(tx, name))
        signature = Signature.FromString(live.artifact.signature)
        if any(each.name == "finish_reason" for each in signature.outputs):
            raise predict.NoPlainForm(f"{name} generates text: ask /v1/chat/completions.", name=str(name))
        head, body = await asyncio.to_thread(_encoded, request, signature)
        with gate.aside():
            answer = await self._send(name, head, body, authorization, seconds - MARGIN_SECONDS)
        answered = await self._answered(answer, live)
        return await asyncio.to_thread(_response, answer, answered, len(request.instances))

    async def _send(
        self, name: DeploymentName, head: bytes, body: bytes, authorization: str, seconds: float
    ) -> httpx.Response:
        headers = {
            LENGTH: str(len(head)),
            "content-type": "application/octet-stream",
            "authorization": authorization,
            "traceparent": telemetry.current_traceparent(),
        }
        timeout = httpx.Timeout(max(seconds, 0.001), connect=CONNECT_SECONDS)
        path = f"/v2/models/{name.deployment}/infer"
        try:
            response = await self._http.post(path, content=head + body, headers=headers, timeout=timeout)
        except httpx.TimeoutException:
            raise DeadlineExceeded(f"{name} did not answer in time.", name=str(name)) from None
        except httpx.TransportError:
            raise Unavailable("The way to the model is closed for a moment: try again.") from None
        if not response.is_success:
            raise error_of(response)
        return response

    async def _answered(self, response: httpx.Response, live: Revision) -> Revision:
        """The revision that gave an answer: during a canary not always the one that is live."""
        said = response.headers.get(REVISION, "")
        if said == live.name.revision:
            return live
        if not said.isdecimal():
            raise Internal("The answer does not say which revision gave it.")
        name = RevisionName(live.name.project, live.name.deployment, said)
        return await self._db.read(lambda tx: store.revision(tx, name))


def _live(tx: Tx, name: DeploymentName) -> Revision:
    found = store.rollout(tx, name)
    number = found.deployment.live
    for each in found.revisions:
        if each.number == number:
            return each
    raise NoRevisionAnswers(f"No revision of {name} answers yet.", name=str(name))


def _encoded(request: inference_service_pb2.PredictRequest, signature: Signature) -> tuple[bytes, bytes]:
    instances: Any = MessageToDict(ListValue(values=request.instances))
    return encode(predict.to_tensors(instances, signature.inputs, signature.max_batch_size))


def _response(
    answer: httpx.Response, revision: Revision, count: int
) -> inference_service_pb2.PredictResponse:
    signature = Signature.FromString(revision.artifact.signature)
    _, outputs = decode(answer.content, head_bytes(answer))
    rows = predict.to_predictions(outputs, signature.labels, count, batched=bool(signature.max_batch_size))
    return inference_service_pb2.PredictResponse(
        predictions=[
            prediction_pb2.Prediction(
                label=label,
                probability=probability,
                outputs={name: ParseDict(value, Value()) for name, value in values.items()},
            )
            for label, probability, values in rows
        ],
        revision=str(revision.name),
        model_version=revision.spec.model_version,
        trace_id=telemetry.current_trace_id(),
    )
