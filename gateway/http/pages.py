"""Routes that no proto declares. Each states its permission, as every method does: nothing is open by oversight."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from aios.errors import AiosError
from aios.identity.v1.identity_service_pb2 import GetCallerRequest
from aios.identity.v1.identity_service_pb2_grpc import IdentityServiceStub
from aios.runtime import roles, telemetry
from gateway.http import problems
from gateway.http.exchange import authorization
from gateway.http.problems import MethodNotAllowed

ANY_CALLER = "caller.get"
"""The permission of everyone who has a token."""
Answer = Callable[[Request], Awaitable[Response]]


class Page(Route):
    """Answers GET for callers with a permission: `ANY_CALLER`, or `public` for everyone."""

    def __init__(self, path: str, permission: str, answer: Answer, identity: IdentityServiceStub) -> None:
        if permission not in (ANY_CALLER, roles.PUBLIC):
            raise ValueError(f"{path}: only a method of a proto can ask for {permission}")
        self.permission = permission

        async def page(request: Request) -> Response:
            try:
                if request.method not in ("GET", "HEAD"):
                    raise MethodNotAllowed(
                        f"{path} does not take {request.method}: use GET", allow="GET, HEAD"
                    )
                if permission != roles.PUBLIC:
                    # The identity domain says who may, as for every method: the door in front is not the only check.
                    await identity.GetCaller(GetCallerRequest(), metadata=authorization(request.headers))
                return await answer(request)
            except AiosError as error:
                return refused(request, error)

        super().__init__(path, page)
        self.methods = None  # every one comes to `page`, which refuses in our words


def refused(request: Request, error: AiosError) -> Response:
    """The answer to a request that failed."""
    trace = telemetry.trace_id_of(request.headers.get("traceparent", ""))
    body = problems.encode(problems.problem(error, trace))
    return Response(body, problems.status(error), problems.headers(error))
