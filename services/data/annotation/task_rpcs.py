"""Methods of tasks for those who run a label project: add, list, watch, prepare."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import replace

from google.protobuf.empty_pb2 import Empty
from google.protobuf.json_format import ParseDict

from aios.data.v1 import annotation_pb2
from aios.data.v1 import annotation_service_pb2 as pb
from aios.errors import InvalidArgument
from aios.labels import Label, wire
from aios.labels.values import check_label
from aios.names import DatasetVersionName, LabelProjectName, LabelTaskName
from aios.records import Event, Feed, Page, Tx
from aios.records.pages import encode
from aios.runtime.watch import serve_watch
from services.data import dataset_store
from services.data.annotation import lease_store, mapping, projects, store
from services.data.annotation.project_rpcs import announce
from services.data.annotation.projects import LabelProject
from services.data.annotation.settle import NOUN, annotated
from services.data.annotation.tasks import Progress, State
from services.data.annotation.work import Annotation, Item, Prelabelled, Task
from services.data.rpcs import Context, Rpcs, project_of

AT_ONCE = 1_000
LABEL_BYTES_MAX = 64 * 1024
PAGE_BYTES = 2 << 20  # of tasks in one answer: half of what a message may be


class LabelTaskRpcs(Rpcs):
    """What a label project is made of."""

    async def AddLabelTasks(
        self, request: pb.AddLabelTasksRequest, context: Context
    ) -> pb.AddLabelTasksResponse:
        name = LabelProjectName.parse(request.parent, "parent")
        _require_some(request.tasks, "tasks")
        project = await self._db.read(lambda tx: store.get_project(tx, name))
        new = [_new(each, project, f"tasks[{index}]") for index, each in enumerate(request.tasks)]
        await self._require_files(project.version, [item.path for item, _, _ in new])

        def add(tx: Tx) -> pb.AddLabelTasksResponse:
            mine = store.get_project(tx, name)
            known = dict(store.tasks_by_key(tx, name, sorted({item.path for item, _, _ in new})))
            fresh: list[Task] = []
            first = store.task_count(tx, name) + 1
            for item, gold, _ in new:
                if item.key not in known:
                    made = _task(name, first + len(fresh), item, gold, tx)
                    known[item.key] = made
                    fresh.append(made)
            if first + len(fresh) - 1 > projects.TASKS_MAX:
                raise projects.LabelProjectFull(
                    f"{name} may have {projects.TASKS_MAX} tasks.", name=str(name)
                )
            store.add_tasks(tx, name, first, fresh)
            answered = 0
            for item, _, annotations in new:
                for annotation in annotations:
                    after = _imported(tx, mine, known[item.key], annotation)
                    if after is not None:
                        known[item.key], answered = after, answered + 1
            if fresh or answered:
                announce(tx, name, "changed")
            return pb.AddLabelTasksResponse(added=len(fresh), annotated=answered)

        return await self._db.write(add)

    async def ListLabelTasks(
        self, request: pb.ListLabelTasksRequest, context: Context
    ) -> pb.ListLabelTasksResponse:
        name = LabelProjectName.parse(request.parent, "parent")
        states = [_state(state, f"states[{index}]") for index, state in enumerate(request.states)]

        def read(tx: Tx) -> pb.ListLabelTasksResponse:
            store.get_project(tx, name)
            found, token = store.tasks_page(tx, request, name, states)
            answer = pb.ListLabelTasksResponse(next_page_token=token, revision=tx.revision())
            size = 0
            for each in found:
                shown = mapping.task_to_proto(each.task, each.annotations)
                size += shown.ByteSize()
                if answer.tasks and size > PAGE_BYTES:
                    page = Page.of(request)
                    answer.next_page_token = encode([found[len(answer.tasks) - 1].task.number], page.query)
                    break
                answer.tasks.append(shown)
            return answer

        return await self._db.read(read)

    async def WatchLabelTasks(
        self, request: pb.WatchLabelTasksRequest, context: Context
    ) -> AsyncIterator[pb.WatchLabelTasksResponse]:
        project = project_of(request.parent)
        feed = Feed(self._db)
        async for response in serve_watch(feed, NOUN, project, request.start_revision, _changes):
            yield response

    async def PrepareLabelTasks(self, request: pb.PrepareLabelTasksRequest, context: Context) -> Empty:
        name = LabelProjectName.parse(request.parent, "parent")
        _require_some(request.updates, "updates")

        def prepare(tx: Tx) -> Empty:
            project = store.get_project(tx, name)
            for index, update in enumerate(request.updates):
                at = f"updates[{index}]"
                task = store.get_task(tx, _within(update.name, name, f"{at}.name"))
                changed = task
                if update.HasField("priority"):
                    changed = replace(changed, priority=_finite(update.priority, f"{at}.priority"))
                if update.HasField("prelabel") and lease_store.untouched(tx, task):
                    asked = mapping.prelabel_from_proto(update.prelabel, f"{at}.prelabel")
                    label = check(project, task.item, asked.label, f"{at}.prelabel.label")
                    changed = replace(changed, prelabel=replace(asked, label=label))
                if changed != task and task.progress.state is State.OPEN:
                    store.save(tx, changed, tx.now())
            announce(tx, name, "changed")
            return Empty()

        return await self._db.write(prepare)

    async def _require_files(self, version: DatasetVersionName, paths: Sequence[str]) -> None:
        stored = await self._db.read(lambda tx: dataset_store.get_version(tx, version))
        manifest = await self._contents.manifest(version.project, stored.manifest_sha256)
        tree = await self._contents.tree(version.project, manifest)
        wanted = sorted(set(paths))
        there = {leaf.path for leaf in (await asyncio.to_thread(tree.find, wanted)).leaves()}
        for index, path in enumerate(paths):
            if path not in there:
                raise InvalidArgument.of(f"tasks[{index}].item.path", f"{path!r} is no file of {version}")


def check(project: LabelProject, item: Item, label: Label, at: str) -> Label:
    """A label of an item in the form that is stored.

    Raises:
        InvalidArgument: naming the part below `at`.
    """
    size = projects.size_of(project.kind, item.data or {}, item.width, item.height, "item")
    if wire.label_to_proto(label).ByteSize() > LABEL_BYTES_MAX:
        raise InvalidArgument.of(at, f"must be at most {LABEL_BYTES_MAX} bytes")
    return check_label(label, project.kind, set(project.labels), size, at)


def _new(
    proto: pb.NewLabelTask, project: LabelProject, at: str
) -> tuple[Item, Label | None, Sequence[Annotation]]:
    item = mapping.item_from_proto(proto.item, f"{at}.item")
    projects.size_of(project.kind, item.data or {}, item.width, item.height, f"{at}.item")
    gold = None
    if proto.HasField("gold"):
        gold = check(project, item, wire.label_from_proto(proto.gold), f"{at}.gold")
    annotations = []
    for index, each in enumerate(proto.annotations):
        below = f"{at}.annotations[{index}]"
        if not 0 < len(each.annotator) <= mapping.SOURCE_CHARS_MAX:
            raise InvalidArgument.of(f"{below}.annotator", f"must be 1-{mapping.SOURCE_CHARS_MAX} characters")
        label = check(project, item, wire.label_from_proto(each.label), f"{below}.label")
        seconds = max(0.0, each.duration.seconds + each.duration.nanos / 1e9)
        annotations.append(
            Annotation(each.annotator, label, "", Prelabelled.NONE, seconds, project.create_time)
        )
    return item, gold, annotations


def _task(name: LabelProjectName, number: int, item: Item, gold: Label | None, tx: Tx) -> Task:
    state = State.OPEN if gold is None else State.ACCEPTED
    return Task(
        LabelTaskName(name.project, name.label_project, str(number)),
        item,
        Progress(state),
        0.0,
        tx.now(),
        label=gold,
        confidence=0.0 if gold is None else 1.0,
        gold=gold is not None,
    )


def _imported(tx: Tx, project: LabelProject, task: Task, annotation: Annotation) -> Task | None:
    """The task with what was said elsewhere; None where it has no place any more."""
    mine = store.told(tx, project.name, [task])[0]
    if annotation.annotator in {each.annotator for each in mine.annotations}:
        return None
    if task.progress.state is not State.OPEN and not task.gold:
        return None
    return annotated(tx, project, task, replace(annotation, create_time=tx.now()), announce=False)


def _changes(events: Sequence[Event], revision: int) -> pb.WatchLabelTasksResponse:
    return pb.WatchLabelTasksResponse(
        events=[
            pb.LabelTaskEvent(
                type=event.type,
                task=ParseDict(dict(event.payload), annotation_pb2.LabelTask(), ignore_unknown_fields=True),
                revision=event.revision,
            )
            for event in events
        ],
        revision=revision,
    )


def _within(text: str, project: LabelProjectName, at: str) -> LabelTaskName:
    name = LabelTaskName.parse(text, at)
    if name.parent != str(project):
        raise InvalidArgument.of(at, f"must lie in {project}")
    return name


def _require_some(items: Iterable[object], at: str) -> None:
    if not 0 < len(list(items)) <= AT_ONCE:
        raise InvalidArgument.of(at, f"must be 1 to {AT_ONCE}")


def _finite(value: float, at: str) -> float:
    if not -1e9 <= value <= 1e9:
        raise InvalidArgument.of(at, "must be a number from -1e9 to 1e9")
    return value


def _state(value: int, at: str) -> State:
    try:
        return State(annotation_pb2.LabelTask.State.Name(value).removeprefix("STATE_").lower())  # type: ignore[arg-type]
    except ValueError:
        raise InvalidArgument.of(at, f"must be one of {', '.join(State)}") from None
