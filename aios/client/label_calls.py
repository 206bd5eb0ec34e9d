"""The calls of the annotation service: label projects, their tasks, and those who label."""

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any

from aios.client.connection import Connection, pages, request_id
from aios.client.datasets import Datasets
from aios.data.v1 import annotation_pb2, annotation_service_pb2_grpc
from aios.data.v1 import annotation_service_pb2 as pb
from aios.errors import InvalidArgument
from aios.labels import Kind, Label, wire
from aios.names import LabelProjectName, LabelTaskName

AT_ONCE = 500
"""Items in one request."""
REQUEST_BYTES = 3 << 20
SECONDS = 30.0


class LabelCalls:
    """What `client.labels` asks the service."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = annotation_service_pb2_grpc.AnnotationServiceStub(connection.channel)
        self._datasets = Datasets(connection)

    async def create(
        self,
        name: str,
        dataset: str,
        kind: Kind | str,
        labels: Sequence[str],
        *,
        overlap: int = 1,
        lease_seconds: float = 0.0,
        **rules: Any,
    ) -> annotation_pb2.LabelProject:
        """Make a label project over a version, the newest of a dataset where only that is named.

        Args:
            kind: What a label is: see `Kind`.
            labels: The classes.
            rules: Other fields of LabelProject, such as `instructions` or `gold_every`.
        """
        full = self._connection.name(LabelProjectName, name)
        project = annotation_pb2.LabelProject(
            dataset_version=str(self._datasets.version_name(dataset)),
            kind=wire.kind_to_proto(Kind(kind)),
            labels=labels,
            overlap=overlap,
            **rules,
        )
        if lease_seconds:
            project.lease_duration.FromNanoseconds(round(lease_seconds * 1e9))
        return await self._stub.CreateLabelProject(
            pb.CreateLabelProjectRequest(
                parent=full.parent,
                label_project_id=full.label_project,
                label_project=project,
                request_id=request_id(),
            )
        )

    async def get(self, name: str) -> annotation_pb2.LabelProject:
        """One label project with its progress."""
        return await self._stub.GetLabelProject(pb.GetLabelProjectRequest(name=self._name(name)))

    async def list(self, limit: int | None = None) -> AsyncIterator[annotation_pb2.LabelProject]:
        """The project's label projects, by name."""
        request = pb.ListLabelProjectsRequest(parent=self._connection.project)
        async for each in pages(self._stub.ListLabelProjects, request, "label_projects", limit):
            yield each

    async def delete(self, name: str) -> None:
        """Remove a label project with everything said in it; versions made from it stay."""
        await self._stub.DeleteLabelProject(pb.DeleteLabelProjectRequest(name=self._name(name)))

    async def report(self, name: str, level: str = "nominal") -> pb.LabelReport:
        """Progress, agreement, and each annotator. `level` is the scale of Krippendorff's alpha."""
        try:
            scale = pb.GetLabelReportRequest.Level.Value(f"LEVEL_{level.upper()}")
        except ValueError:
            raise InvalidArgument.of("level", "must be nominal, ordinal, interval or ratio") from None
        request = pb.GetLabelReportRequest(name=self._name(name), level=scale)
        return await self._stub.GetLabelReport(request, timeout=SECONDS)

    async def tasks(
        self, name: str, states: Iterable[str] = (), limit: int | None = None
    ) -> AsyncIterator[annotation_pb2.LabelTask]:
        """Tasks by number, with what people said; only those in one of these states, where any are named."""
        wanted = [annotation_pb2.LabelTask.State.Value(f"STATE_{state.upper()}") for state in states]
        request = pb.ListLabelTasksRequest(parent=self._name(name), states=wanted)
        async for each in pages(self._stub.ListLabelTasks, request, "tasks", limit):
            yield each

    async def watch(self, start_revision: int = 0) -> AsyncIterator[pb.LabelTaskEvent]:
        """Every change of single tasks in the project, from now or from a revision on."""
        request = pb.WatchLabelTasksRequest(parent=self._connection.project, start_revision=start_revision)
        async for message in self._stub.WatchLabelTasks(request):
            for event in message.events:
                yield event

    async def lease(self, name: str, count: int = 1) -> Sequence[annotation_pb2.LabelLease]:
        """Tasks to label: those that the caller has, then new ones. None where nothing is left for the caller."""
        request = pb.LeaseLabelTasksRequest(parent=self._name(name), count=count, request_id=request_id())
        return (await self._stub.LeaseLabelTasks(request)).leases

    async def submit(self, task: str, fence: int, label: Label | None, skip_reason: str = "") -> None:
        """Label a task that the caller has; without a label, skip it and say why."""
        request = pb.SubmitLabelRequest(
            name=self._task(task), fence=fence, skip_reason=skip_reason, request_id=request_id()
        )
        if label is not None:
            request.label.CopyFrom(wire.label_to_proto(label))
        await self._stub.SubmitLabel(request)

    async def review(
        self, task: str, verdict: str, label: Label | None = None, etag: str = ""
    ) -> annotation_pb2.LabelTask:
        """Decide on a task: `correct` with a label, `accept`, or `reopen`."""
        request = pb.ReviewLabelTaskRequest(
            name=self._task(task),
            verdict=pb.ReviewLabelTaskRequest.Verdict.Value(f"VERDICT_{verdict.upper()}"),
            etag=etag,
            request_id=request_id(),
        )
        if label is not None:
            request.label.CopyFrom(wire.label_to_proto(label))
        return await self._stub.ReviewLabelTask(request)

    async def resolve(
        self,
        name: str,
        method: str = "majority",
        confidence_min: float | None = None,
        *,
        dry_run: bool = False,
    ) -> pb.ResolveLabelTasksResponse:
        """Settle what people said by `majority` or `dawid-skene`, and accept what is sure enough."""
        named = f"METHOD_{method.upper().replace('-', '_')}"
        request = pb.ResolveLabelTasksRequest(
            parent=self._name(name),
            method=pb.ResolveLabelTasksRequest.Method.Value(named),
            confidence_min=confidence_min,
            validate_only=dry_run,
        )
        return await self._stub.ResolveLabelTasks(request, timeout=SECONDS)

    async def prepare(self, name: str, updates: Iterable[pb.LabelTaskUpdate]) -> None:
        """Give open tasks proposals or priorities."""
        given = list(updates)
        for start in range(0, len(given), AT_ONCE):
            some = given[start : start + AT_ONCE]
            await self._stub.PrepareLabelTasks(
                pb.PrepareLabelTasksRequest(parent=self._name(name), updates=some), timeout=SECONDS
            )

    async def _add(self, name: str, tasks: Sequence[pb.NewLabelTask]) -> tuple[int, int]:
        added = annotated = 0
        for some in _batches(tasks):
            request = pb.AddLabelTasksRequest(parent=self._name(name), tasks=some)
            answer = await self._stub.AddLabelTasks(request, timeout=SECONDS)
            added, annotated = added + answer.added, annotated + answer.annotated
        return added, annotated

    def _name(self, name: str) -> str:
        return str(self._connection.name(LabelProjectName, name))

    def _task(self, name: str) -> str:
        return str(self._connection.name(LabelTaskName, name))


def _batches(tasks: Iterable[pb.NewLabelTask]) -> Iterator[list[pb.NewLabelTask]]:
    """As many as one request takes."""
    some: list[pb.NewLabelTask] = []
    size = 0
    for task in tasks:
        if some and (len(some) == AT_ONCE or size + task.ByteSize() > REQUEST_BYTES):
            yield some
            some, size = [], 0
        some.append(task)
        size += task.ByteSize()
    if some:
        yield some
