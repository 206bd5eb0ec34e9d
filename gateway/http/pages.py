"""Routes that no proto declares. Each states its permission, as every method does: nothing is open by oversight."""

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from aios.errors import AiosError
from aios.identity.v1.identity_service_pb2 import GetCallerRequest
from aios.identity.v1.identity_service_pb2_grpc import IdentityServiceStub
from aios.runtime import contract, roles, telemetry
from gateway.http import problems
from gateway.http.exchange import authorization
from gateway.http.problems import MethodNotAllowed

ANY_CALLER = "caller.get"
"""The permission of everyone who has a token."""
Answer = Callable[[Request], Awaitable[Response]]


class Stated(Route):
    """A route and what it asks of a caller, which whoever it calls with the caller's own token decides.

    Args:
        permissions: By HTTP method.
        endpoint: Answers each of them, and refuses all others.

    Raises:
        ValueError: no role or method knows such a permission.
    """

    def __init__(self, path: str, permissions: Mapping[str, str], endpoint: Answer) -> None:
        if not permissions or not roles.KNOWN.issuperset(permissions.values()):
            raise ValueError(f"{path}: a permission that nothing asks for: {dict(permissions)}")
        super().__init__(path, endpoint)
        self.permissions = dict(permissions)
        self.methods = None  # every one comes to `endpoint`, which refuses in our words


def asked_by(method: str) -> str:
    """The permission that `/package.Service/Method` asks for, for a route that is answered by calling it.

    Raises:
        LookupError: no proto declares it.
    """
    declared = contract.method(method)
    if declared is None:
        raise LookupError(method)
    return declared.permission


class Page(Stated):
    """Answers GET for callers with a permission: `ANY_CALLER`, or `public` for everyone."""

    def __init__(self, path: str, permission: str, answer: Answer, identity: IdentityServiceStub) -> None:
        if permission not in (ANY_CALLER, roles.PUBLIC):
            raise ValueError(f"{path}: only a method of a proto can ask for {permission}")

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

        super().__init__(path, {"GET": permission}, page)


def refused(request: Request, error: AiosError) -> Response:
    """The answer to a request that failed."""
    trace = telemetry.trace_id_of(request.headers.get("traceparent", ""))
    body = problems.encode(problems.problem(error, trace))
    return Response(body, problems.status(error), problems.headers(error))
