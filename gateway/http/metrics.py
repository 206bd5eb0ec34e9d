"""`/metrics`: what the deployments of the caller's project do now, for Prometheus to fetch with a token.

The names are those under which the same figures reach Prometheus through an OpenTelemetry Collector.

Source: Prometheus' text exposition format 0.0.4.
"""

from collections.abc import Callable, Iterable, Iterator

from starlette.requests import Request
from starlette.responses import Response

from aios.errors import AiosError
from aios.identity.v1.identity_service_pb2 import GetCallerRequest
from aios.identity.v1.identity_service_pb2_grpc import IdentityServiceStub
from aios.inference.v1.deployment_pb2 import RevisionFigures
from aios.inference.v1.inference_service_pb2 import ListFiguresRequest
from aios.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from aios.names import ANY_PROJECT, ProjectName, RevisionName
from gateway.http.exchange import authorization
from gateway.http.pages import Stated, asked_by, refused
from gateway.http.problems import MethodNotAllowed

LIST_FIGURES = "/aios.inference.v1.InferenceService/ListFigures"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Value = Callable[[RevisionFigures], float]
Maybe = Callable[[RevisionFigures], float | None]
_GAUGES: tuple[tuple[str, str, Value], ...] = (
    ("requests_per_second", "Predictions.", lambda each: each.requests_per_second),
    ("failed_ratio", "Share of them that failed.", lambda each: each.errors / max(1, each.requests)),
    ("in_flight", "Predictions under way.", lambda each: each.in_flight),
    ("queue_seconds", "How long requests wait for the model.", lambda each: each.queue_millis / 1000),
    ("compute_seconds", "How long the model takes for a request.", lambda each: each.compute_millis / 1000),
    ("batch", "Predictions that the model makes at once.", lambda each: each.batch_rows),
    ("tokens_read_per_second", "Tokens of prompts.", lambda each: each.prompt_tokens_per_second),
    ("tokens_generated_per_second", "Tokens of answers.", lambda each: each.completion_tokens_per_second),
    ("replicas_ready", "Replicas that answer.", lambda each: each.replicas_ready),
    ("replicas_wanted", "Replicas that there should be.", lambda each: each.replicas_wanted),
)
_QUALITY: tuple[tuple[str, str, Maybe], ...] = (
    (
        "live_accuracy_ratio",
        "Share of right classes, of the newest answers that somebody said the truth of.",
        lambda each: each.live_accuracy if each.HasField("live_accuracy") else None,
    ),
    (
        "live_mae",
        "Mean distance of numbers from the truth, of the newest answers.",
        lambda each: each.live_mae if each.HasField("live_mae") else None,
    ),
    ("feedback", "Answers that these are of.", lambda each: each.feedback or None),
)
_TIMES: tuple[tuple[str, Value], ...] = (
    ("0.5", lambda each: each.p50_millis / 1000),
    ("0.95", lambda each: each.p95_millis / 1000),
    ("0.99", lambda each: each.p99_millis / 1000),
)


class Metrics:
    """The page. Who may see it is decided where the figures are: by `ListFigures`, for the caller's own token."""

    def __init__(self, identity: IdentityServiceStub, inference: InferenceServiceStub) -> None:
        self._identity = identity
        self._inference = inference

    def route(self) -> Stated:
        """For the gateway's router."""

        async def page(request: Request) -> Response:
            try:
                if request.method not in ("GET", "HEAD"):
                    raise MethodNotAllowed(
                        f"/metrics does not take {request.method}: use GET", allow="GET, HEAD"
                    )
                return await self._answer(request)
            except AiosError as error:
                return refused(request, error)

        return Stated("/metrics", {"GET": asked_by(LIST_FIGURES)}, page)

    async def _answer(self, request: Request) -> Response:
        """The figures of the token's project; of another one, or of all (`-`), for who may: `?project=`."""
        metadata = authorization(request.headers)
        parent = request.query_params.get("project")
        if parent is None:
            caller = await self._identity.GetCaller(GetCallerRequest(), metadata=metadata)
            parent = ANY_PROJECT if caller.operator else ProjectName.parse(caller.project).project
        asked = ListFiguresRequest(parent=f"projects/{parent}")
        found = (await self._inference.ListFigures(asked, metadata=metadata)).figures
        return Response(text(found), headers={"content-type": CONTENT_TYPE})


def text(figures: Iterable[RevisionFigures]) -> str:
    """The figures as Prometheus reads them."""
    return "".join(f"{line}\n" for line in _lines(list(figures)))


def _lines(figures: list[RevisionFigures]) -> Iterator[str]:
    for name, about, value in _GAUGES:
        yield from _head(name, about)
        for each in figures:
            yield f"aios_revision_{name}{{{_labels(each)}}} {value(each):.6g}"
    for name, about, known in _QUALITY:
        yield from _head(name, about)
        for each in figures:
            if (found := known(each)) is not None:
                yield f"aios_revision_{name}{{{_labels(each)}}} {found:.6g}"
    yield from _head("time_seconds", "How long predictions take, as quantiles of the last seconds.")
    for each in figures:
        for quantile, value in _TIMES:
            yield f'aios_revision_time_seconds{{{_labels(each)},quantile="{quantile}"}} {value(each):.6g}'


def _head(name: str, about: str) -> tuple[str, str]:
    return f"# HELP aios_revision_{name} {about}", f"# TYPE aios_revision_{name} gauge"


def _labels(figures: RevisionFigures) -> str:
    name = RevisionName.parse(figures.revision)
    # Ids are letters, digits and hyphens: nothing to escape.
    return f'project="{name.project}",deployment="{name.deployment}",revision="{name.revision}"'
