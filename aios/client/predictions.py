"""Predictions: arrays over the Open Inference Protocol, and plain values over the JSON API."""

import base64
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Value
from numpy.typing import ArrayLike, NDArray

from aios.client.connection import Connection
from aios.errors import DeadlineExceeded, InvalidArgument, Unavailable
from aios.inference.v1 import inference_service_pb2, inference_service_pb2_grpc
from aios.names import DeploymentName
from aios.tensors import BYTES, DTYPES, LENGTH, decode, encode, error_of, head_bytes


@dataclass(frozen=True)
class Prediction:
    """What a deployment answered."""

    outputs: Mapping[str, NDArray[Any]]
    model_version: str
    trace_id: str
    """Finds the request's trace."""
    id: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)


class Predictions:
    """`client.predict(...)` and `client.predictions`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = inference_service_pb2_grpc.InferenceServiceStub(connection.channel)
        self._known: dict[str, Mapping[str, Any]] = {}

    async def metadata(self, deployment: str) -> Mapping[str, Any]:
        """What a deployment takes and gives, as its server says."""
        name = self._connection.name(DeploymentName, deployment).deployment
        response = await self._send("GET", f"/v2/models/{name}")
        return dict(response.json())

    async def predict(
        self, deployment: str, inputs: ArrayLike | Mapping[str, ArrayLike], *, timeout: float = 60.0
    ) -> Prediction:
        """Ask a deployment.

        Args:
            inputs: Arrays or nested lists by input name; one alone for a model with one input. Converted to the
                input's datatype where no value changes.
            timeout: Seconds.
        """
        name = self._connection.name(DeploymentName, deployment).deployment
        if name not in self._known:
            self._known[name] = await self.metadata(name)
        tensors = _arrays(inputs, self._known[name]["inputs"])
        head, body = encode(tensors)
        response = await self._send(
            "POST",
            f"/v2/models/{name}/infer",
            content=head + body,
            headers={LENGTH: str(len(head)), "content-type": "application/octet-stream"},
            timeout=timeout,
        )
        answer, outputs = decode(response.content, head_bytes(response))
        return Prediction(
            outputs,
            str(answer.get("model_version", "")),
            response.request.headers["traceparent"].split("-")[1],
            str(answer.get("id", "")),
            answer.get("parameters") or {},
        )

    async def ask(
        self, deployment: str, instances: Sequence[Any], *, timeout: float = 30.0
    ) -> inference_service_pb2.PredictResponse:
        """Labelled predictions for plain values: what a web page sends, checked by the platform.

        Args:
            instances: What JSON has: numbers, texts, lists of them, objects by input name, and `image(...)`.
            timeout: Seconds.
        """
        request = inference_service_pb2.PredictRequest(
            name=str(self._connection.name(DeploymentName, deployment)),
            instances=[ParseDict(each, Value()) for each in instances],
        )
        return await self._stub.Predict(request, timeout=timeout)

    async def _send(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, **more: Any
    ) -> httpx.Response:
        credentials = self._connection.credentials
        sent = {
            **(headers or {}),
            "authorization": f"Bearer {credentials.current_token()}",
            # A trace of our own, so that its id is known without asking.
            "traceparent": f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01",
            "x-aios-project": credentials.project,
        }
        try:
            response = await self._connection.http.request(
                method, credentials.address + path, headers=sent, **more
            )
        except httpx.TimeoutException:
            raise DeadlineExceeded(f"{credentials.address}{path} did not answer in time.") from None
        except httpx.TransportError as error:
            raise Unavailable(
                f"Cannot reach {credentials.address}: {str(error) or type(error).__name__}."
            ) from None
        if not response.is_success:
            raise error_of(response)
        return response


def image(content: bytes) -> dict[str, str]:
    """A PNG, JPEG or WebP image as `ask` takes it, scaled to what the model takes."""
    return {"b64": base64.b64encode(content).decode()}


def _arrays(
    inputs: ArrayLike | Mapping[str, ArrayLike], declared: list[dict[str, Any]]
) -> dict[str, tuple[str, NDArray[Any]]]:
    names = [each["name"] for each in declared]
    if not isinstance(inputs, Mapping):
        if len(names) != 1:
            raise InvalidArgument.of("inputs", f"must name each of: {', '.join(names)}")
        inputs = {names[0]: inputs}
    datatypes = {each["name"]: each["datatype"] for each in declared}
    arrays = {}
    for name, value in inputs.items():
        if name not in datatypes:
            raise InvalidArgument.of(f"inputs.{name}", f"unknown input; the model has: {', '.join(names)}")
        arrays[name] = (datatypes[name], _convert(name, value, datatypes[name]))
    return arrays


def _convert(name: str, value: ArrayLike, datatype: str) -> NDArray[Any]:
    if datatype == BYTES:
        return np.asarray(value, dtype="O")
    if datatype not in DTYPES:
        raise InvalidArgument.of(f"inputs.{name}", f"datatype {datatype} cannot be sent by this client")
    dtype = np.dtype(DTYPES[datatype])
    try:
        array = np.asarray(value)
        converted = array.astype(dtype)
    except (TypeError, ValueError) as error:
        raise InvalidArgument.of(f"inputs.{name}", f"must be {datatype}: {error}") from None
    # Fewer digits of a float are no surprise; another number is.
    if not np.can_cast(array.dtype, dtype, "same_kind") and not np.array_equal(converted, array):
        raise InvalidArgument.of(f"inputs.{name}", f"must be {datatype}: {array.dtype} values do not fit")
    return converted
