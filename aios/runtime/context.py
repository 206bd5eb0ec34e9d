"""What the interceptors know about the call under way, for code below them."""

import math
from contextvars import ContextVar
from dataclasses import dataclass

from aios.errors import NotFound, PermissionDenied, StaleEpoch


@dataclass(frozen=True)
class Principal:
    """Who is calling, as a verified token says.

    `job` and `epoch` are set for workers only: the attempt they are.
    """

    subject: str
    project: str
    role: str
    token_id: str = ""
    operator: bool = False
    job: str | None = None
    epoch: int | None = None
    expires: float = math.inf
    """Seconds since 1970 at which the token ends."""

    @property
    def everywhere(self) -> bool:
        """May touch every project."""
        return self.operator or self.role in ("service", "node")


@dataclass
class Call:
    """One call on this server, filled in as it is read."""

    method: str
    """Full path: `/aios.scheduler.v1.SchedulerService/CreateJob`."""
    principal: Principal | None
    resource: str = ""
    """Name that the request is about."""


current_call: ContextVar[Call | None] = ContextVar("current_call", default=None)


def principal() -> Principal:
    """Who is calling. Only inside a call that needs a token."""
    call = current_call.get()
    if call is None or call.principal is None:
        raise PermissionDenied("This needs a caller with a token.", reason="NO_CALLER")
    return call.principal


def require_project(project: str, what: str = "resource") -> None:
    """Refuse a caller of another project, as if the resource did not exist.

    The interceptor has done this for the resource in the method's HTTP path; names in other fields need it too.
    """
    caller = principal()
    if not (caller.everywhere or caller.project == project):
        raise NotFound(f"No such {what} in your project {caller.project}.", resource=what)


def require_job(job: str, epoch: int) -> None:
    """Refuse a worker that is not this attempt of this job. Services may speak for any.

    Raises:
        NotFound: the worker belongs to another job.
        StaleEpoch: the token is of another attempt.
    """
    caller = principal()
    if caller.role != "worker":
        return
    if caller.job != job:
        raise NotFound(f"{job} is not the job of this token.", resource=job)
    if caller.epoch != epoch:
        raise StaleEpoch(f"The token is of attempt {caller.epoch}, the request of {epoch}.", job=job)
