"""What surrounds every method on the server, in this order: tracing, errors, limits, caller, then the method itself.

One wrapper serves all four RPC shapes. It decodes the request itself, so that bytes that are no message are answered
with INVALID_ARGUMENT by us and not with INTERNAL by the library.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2
from grpc_status import rpc_status
from opentelemetry.metrics import Histogram
from opentelemetry.trace import SpanKind, Status, StatusCode, get_current_span

from aios.errors import (
    AiosError,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unauthenticated,
)
from aios.names import ANY_PROJECT, project_of
from aios.runtime import contract, meters, roles, telemetry
from aios.runtime.audit import Heard, Listener, source_of
from aios.runtime.context import Call, Principal, current_call
from aios.runtime.gate import Gate
from aios.runtime.status import to_status
from aios.runtime.tokens import Verifier

MESSAGE_SECONDS_MAX = 1.0  # that a stream which is to end may take to get its last message out
UNARY_SECONDS_MAX = 30.0  # a unary call is short work; longer work answers at once and is watched

_log = logging.getLogger(__name__)
Context = grpc.aio.ServicerContext[Any, Any]
Handler = Any  # grpc.RpcMethodHandler: its stubs know only the synchronous shapes
M = TypeVar("M")


@dataclass
class Chain:
    """The interceptors of one server."""

    verifier: Verifier
    foreign: Mapping[str, str]
    """Permission of methods or whole services that are not ours: health, reflection, OTLP."""
    gate: Gate = field(default_factory=Gate)
    heard: Listener | None = None
    """Told of each call that is no stream."""
    streams: dict[asyncio.Task[Any], Call] = field(default_factory=dict)
    """Calls that answer with a stream, which may last for days."""
    others: dict[asyncio.Task[Any], Call] = field(default_factory=dict)
    _calls: Histogram = field(default_factory=meters.calls)
    _ended: dict[asyncio.Task[Any], AiosError] = field(default_factory=dict)
    _sending: set[asyncio.Task[Any]] = field(default_factory=set)
    """Streams whose message is on its way: cancelled there, the library would end them without a word to the caller."""

    def end_streams(self, error: AiosError, which: Callable[[Call], bool] = lambda _: True) -> None:
        """End streams from this side; their callers get `error`."""
        self._end([task for task, call in self.streams.items() if which(call)], error)

    def end_calls(self, error: AiosError) -> None:
        """End everything that is under way."""
        self._end([*self.streams, *self.others], error)

    def _end(self, tasks: Iterable[asyncio.Task[Any]], error: AiosError) -> None:
        for task in tasks:
            if task not in self._ended:
                self._ended[task] = error
                if task in self._sending:
                    asyncio.get_running_loop().call_later(MESSAGE_SECONDS_MAX, self._cut, task)
                else:
                    task.cancel()

    def _cut(self, task: asyncio.Task[Any]) -> None:
        """End a stream whose reader does not take the message that it was being sent."""
        if task in self._sending:
            task.cancel()

    async def _passed_on(self, responses: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """A stream's messages, until it is to end."""
        task = asyncio.current_task()
        assert task is not None
        try:
            async for response in responses:
                self._sending.add(task)
                yield response
                self._sending.discard(task)
                if task in self._ended:
                    raise self._ended[task]
        finally:
            self._sending.discard(task)

    def permission(self, path: str) -> str:
        """What a caller needs for a method.

        Raises:
            ValueError: the method states no permission, or one that no role has.
        """
        declared = contract.method(path)
        service = path.split("/")[1]
        permission = self.foreign.get(path) or self.foreign.get(service) or (declared and declared.permission)
        if not permission or permission not in roles.KNOWN:
            raise ValueError(f"{path} states no known permission ({permission!r}): see aios.runtime.roles")
        return permission

    def wrap(self, path: str, handler: Handler) -> Handler:
        """The same method with the chain around it."""
        permission = self.permission(path)
        decode: Callable[[bytes], Any] = handler.request_deserializer or bytes

        async def unary_in(raw: bytes, context: Context) -> Any:
            async with self._around(path, permission, context) as call:
                request = _decoded(raw, decode)
                call.resource = _resource(path, request)
                self._check_project(path, request, call.principal)
                async with _deadline(context), self._let_in(call.principal):
                    return await _unary(handler)(request, context)

        async def unary_in_stream_out(raw: bytes, context: Context) -> AsyncIterator[Any]:
            async with self._around(path, permission, context, stream=True) as call:
                request = _decoded(raw, decode)
                self._check_project(path, request, call.principal)
                responses = handler.unary_stream(request, context)
                if asyncio.iscoroutine(responses):
                    await (
                        responses
                    )  # a servicer of another package (health) that writes to the context itself
                    return
                async for response in self._passed_on(responses):
                    yield response

        async def stream_in(raws: AsyncIterator[bytes], context: Context) -> Any:
            async with self._around(path, permission, context):
                return await handler.stream_unary(_all_decoded(raws, decode), context)

        async def stream_in_stream_out(raws: AsyncIterator[bytes], context: Context) -> AsyncIterator[Any]:
            async with self._around(path, permission, context, stream=True):
                responses = handler.stream_stream(_all_decoded(raws, decode), context)
                async for response in self._passed_on(responses):
                    yield response

        encode = handler.response_serializer
        make: Callable[..., Handler]
        method: Callable[..., Any]
        match (handler.request_streaming, handler.response_streaming):
            case (False, False):
                make, method = grpc.unary_unary_rpc_method_handler, unary_in
            case (False, True):
                make, method = grpc.unary_stream_rpc_method_handler, unary_in_stream_out
            case (True, False):
                make, method = grpc.stream_unary_rpc_method_handler, stream_in
            case _:
                make, method = grpc.stream_stream_rpc_method_handler, stream_in_stream_out
        return make(method, request_deserializer=None, response_serializer=encode)

    @asynccontextmanager
    async def _around(
        self, path: str, permission: str, context: Context, *, stream: bool = False
    ) -> AsyncIterator[Call]:
        task = asyncio.current_task()
        assert task is not None
        metadata = {str(key): value for key, value in context.invocation_metadata() or ()}
        status, left, began = None, False, time.perf_counter()
        call = Call(path, None)
        with telemetry.span(
            path.removeprefix("/"),
            traceparent=str(metadata.get("traceparent", "")) or None,
            kind=SpanKind.SERVER,
        ):
            try:
                call.principal = self._caller(metadata, permission)
                # Never reset: the context is this call's own and ends with it.
                current_call.set(call)
                self._check_role(call.principal, permission)
                if call.principal is not None and not call.principal.everywhere:
                    get_current_span().set_attribute("aios.project", call.principal.project)
                (self.streams if stream else self.others)[task] = call
                yield call
                if self.heard is not None and not stream:
                    await self.heard(_heard(call, permission, metadata, context))
            except AiosError as error:
                get_current_span().set_status(Status(StatusCode.ERROR, error.reason))
                status = to_status(error)
                if self.heard is not None and not stream:
                    status = await self._refused(call, permission, metadata, context, error)
            except (asyncio.CancelledError, GeneratorExit):
                if task not in self._ended:
                    left = True
                    raise
                task.uncancel()
                status = to_status(self._ended[task])
            except Exception as error:
                if isinstance(error, grpc.aio.AbortError):
                    left = True
                    raise
                _log.exception("unexpected error in %s", path)
                get_current_span().set_status(Status(StatusCode.ERROR, type(error).__name__))
                trace_id = telemetry.current_trace_id() or "none"
                status = to_status(
                    Internal(
                        f"This failed inside the platform. Its log has it as trace {trace_id}.",
                        trace_id=trace_id,
                    )
                )
            finally:
                (self.streams if stream else self.others).pop(task, None)
                self._ended.pop(task, None)
                if not stream and not left:
                    self._calls.record(time.perf_counter() - began, _about(path, status))
        if status is not None:
            await _abort(context, rpc_status.to_status(status))

    def _caller(self, metadata: Mapping[str, Any], permission: str) -> Principal | None:
        if permission == roles.PUBLIC:
            return None
        header = str(metadata.get("authorization", ""))
        if not header:
            raise Unauthenticated(
                "Send a token as `authorization: Bearer ...`; `aios login` gets one.", reason="TOKEN_MISSING"
            )
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated(
                "The authorization header must be `Bearer <token>`.", reason="TOKEN_INVALID"
            )
        return self.verifier.verify(token.strip())

    def _check_role(self, caller: Principal | None, permission: str) -> None:
        if caller is not None and not roles.allows(caller.role, permission, operator=caller.operator):
            raise PermissionDenied(
                f"The role {caller.role} may not do {permission}: ask a project admin.",
                reason="ROLE_TOO_LOW",
                role=caller.role,
                permission=permission,
            )

    async def _refused(
        self, call: Call, permission: str, metadata: Mapping[str, Any], context: Context, error: AiosError
    ) -> Any:
        """Tell of a refusal; its status, or that of what kept it from being told."""
        assert self.heard is not None
        try:
            await self.heard(_heard(call, permission, metadata, context, error))
        except AiosError as worse:
            return to_status(worse)
        return to_status(error)

    def _check_project(self, path: str, request: Any, caller: Principal | None) -> None:
        declared = contract.method(path)
        if declared is None or caller is None or not isinstance(request, Message):
            return
        for path_field in declared.resources:
            name = contract.read_field(request, path_field)
            project = project_of(name)
            if project is None:
                continue
            if project == caller.project or caller.everywhere:
                if project != ANY_PROJECT:
                    # Who sees the trace: of a caller with a project of its own it is known already.
                    get_current_span().set_attribute("aios.project", project)
                continue
            wildcard = (
                " Only the platform's own services may name every project." if project == ANY_PROJECT else ""
            )
            raise NotFound(
                f"{name!r} does not exist in your project {caller.project}.{wildcard}", resource=name
            )

    @asynccontextmanager
    async def _let_in(self, caller: Principal | None) -> AsyncIterator[None]:
        """Strangers wait for each other. What keeps the platform itself going is bounded by its own size."""
        if caller is None or caller.role in roles.INTERNAL:
            yield
        else:
            async with self.gate.inside():
                yield


def _resource(path: str, request: Any) -> str:
    declared = contract.method(path)
    if declared is None or not isinstance(request, Message):
        return ""
    return next((contract.read_field(request, each) for each in declared.resources), "")


def _heard(
    call: Call,
    permission: str,
    metadata: Mapping[str, Any],
    context: Context,
    error: AiosError | None = None,
) -> Heard:
    return Heard(
        call.method,
        permission,
        call.principal,
        call.resource,
        source_of(metadata, context.peer() or ""),
        error.code.name if error else "OK",
        error.reason if error else "",
    )


def _about(path: str, status: Any) -> dict[str, str]:
    service, _, method = path.removeprefix("/").partition("/")
    code = "OK" if status is None else code_pb2.Code.Name(status.code)
    return {"rpc.service": service, "rpc.method": method, "rpc.response.status_code": code}


async def _abort(context: Context, status: Any) -> None:
    """End a call, unless the library has ended it already: in the middle of a message, or at its caller's deadline."""
    with suppress(grpc.aio.InternalError, grpc.aio.UsageError):
        await context.abort_with_status(status)


@asynccontextmanager
async def _deadline(context: Context) -> AsyncIterator[None]:
    left = context.time_remaining()
    try:
        async with asyncio.timeout(min(left or UNARY_SECONDS_MAX, UNARY_SECONDS_MAX)):
            yield
    except TimeoutError:
        raise DeadlineExceeded(
            "This took longer than allowed. Whether it took effect is unknown: read before you repeat it."
        ) from None


def _unary(handler: Handler) -> Callable[[Any, Context], Any]:
    """The method as a coroutine function: servicers of other packages (health) may be plain functions."""
    method = handler.unary_unary
    assert method is not None

    async def call(request: Any, context: Context) -> Any:
        result = method(request, context)
        return await result if asyncio.iscoroutine(result) else result

    return call


def _decoded(raw: bytes, decode: Callable[[bytes], M]) -> M:
    try:
        return decode(raw)
    except DecodeError:
        raise InvalidArgument(
            "The request's bytes are not the message that this method takes.", reason="MALFORMED_MESSAGE"
        ) from None


async def _all_decoded(raws: AsyncIterator[bytes], decode: Callable[[bytes], M]) -> AsyncIterator[M]:
    async for raw in raws:
        yield _decoded(raw, decode)
