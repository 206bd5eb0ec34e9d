"""Methods of tasks for those who run a label project: add, list, watch, prepare, review, resolve."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace

from google.protobuf.empty_pb2 import Empty
from google.protobuf.json_format import ParseDict

from aios.data.v1 import annotation_pb2
from aios.data.v1 import annotation_service_pb2 as pb
from aios.errors import Aborted, InvalidArgument
from aios.labels import Label, consensus, wire
from aios.labels.values import check_label
from aios.names import DatasetVersionName, LabelProjectName, LabelTaskName
from aios.records import Event, Feed, Page, Tx
from aios.records.pages import encode
from aios.runtime.context import principal
from aios.runtime.watch import serve_watch
from services.data import dataset_store
from services.data.annotation import mapping, projects, store, tasks
from services.data.annotation.project_rpcs import announce
from services.data.annotation.projects import LabelProject
from services.data.annotation.settle import NOUN, annotated, tell
from services.data.annotation.tasks import Progress, State, Verdict
from services.data.annotation.work import Annotation, Item, Prelabelled, Task, Told
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
                if update.HasField("prelabel") and store.untouched(tx, task):
                    asked = mapping.prelabel_from_proto(update.prelabel, f"{at}.prelabel")
                    label = check(project, task.item, asked.label, f"{at}.prelabel.label")
                    changed = replace(changed, prelabel=replace(asked, label=label))
                if changed != task and task.progress.state is State.OPEN:
                    store.save(tx, changed, tx.now())
            announce(tx, name, "changed")
            return Empty()

        return await self._db.write(prepare)

    async def ReviewLabelTask(
        self, request: pb.ReviewLabelTaskRequest, context: Context
    ) -> annotation_pb2.LabelTask:
        name = LabelTaskName.parse(request.name)
        verdict = _verdict(request.verdict)
        given = wire.label_from_proto(request.label) if request.HasField("label") else None

        def review(tx: Tx) -> annotation_pb2.LabelTask:
            project = store.get_project(tx, LabelProjectName(name.project, name.label_project))
            task = store.get_task(tx, name)
            if task.gold:
                raise tasks.LabelStateInvalid("The label of this task is known: it has no review.")
            if request.etag and request.etag != str(task.revision):
                raise Aborted(f"{name} has changed: look at it again.", reason="ETAG_MISMATCH")
            label = check(project, task.item, given, "label") if given is not None else None
            after = tasks.reviewed(
                task.progress, verdict, label=label is not None, known=task.label is not None
            )
            changed = replace(task, progress=after, reviewer=principal().subject)
            if verdict is Verdict.REOPEN:
                changed = replace(changed, label=None, confidence=0.0, reviewer="")
            elif label is not None:
                changed = replace(changed, label=label, confidence=1.0)
            saved = store.save(tx, changed, tx.now())
            tell(tx, saved, "reopened" if verdict is Verdict.REOPEN else after.state.value)
            mine = store.told(tx, project.name, [saved])[0]
            return mapping.task_to_proto(saved, mine.annotations)

        return await self._db.once(request, review, annotation_pb2.LabelTask)

    async def ResolveLabelTasks(
        self, request: pb.ResolveLabelTasksRequest, context: Context
    ) -> pb.ResolveLabelTasksResponse:
        name = LabelProjectName.parse(request.parent, "parent")
        least = request.confidence_min if request.HasField("confidence_min") else 2.0
        if request.HasField("confidence_min"):
            projects.check_share(least, "confidence_min")
        weighed = request.method == pb.ResolveLabelTasksRequest.METHOD_DAWID_SKENE

        def read(tx: Tx) -> tuple[LabelProject, list[Told]]:
            states = [State.LABELLED, State.DISPUTED, State.REVIEWED, State.ACCEPTED]
            return store.get_project(tx, name), store.all_told(tx, name, states)

        project, found = await self._db.read(read)
        if weighed and not project.kind.classes:
            raise InvalidArgument.of("method", f"must be MAJORITY: labels are {project.kind}")
        settled = await asyncio.to_thread(_settled, project, found, weighed=weighed)
        accepted = sum(each.confidence >= least for each in settled.values())

        def resolve(tx: Tx) -> pb.ResolveLabelTasksResponse:
            done = took = 0
            for number, each in settled.items():
                task = store.get_task(tx, LabelTaskName(name.project, name.label_project, str(number)))
                if task.revision != before[number]:
                    continue  # somebody has decided meanwhile
                accept = each.confidence >= least
                after = tasks.resolved(task.progress, accept=accept)
                changed = replace(task, progress=after, label=each.label, confidence=each.confidence)
                store.save(tx, changed, tx.now())
                done, took = done + 1, took + accept
            announce(tx, name, "changed")
            return pb.ResolveLabelTasksResponse(resolved=done, accepted=took)

        before = {each.task.number: each.task.revision for each in found}
        if request.validate_only or not settled:
            return pb.ResolveLabelTasksResponse(resolved=len(settled), accepted=accepted)
        return await self._db.write(resolve)

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


def _settled(
    project: LabelProject, found: Sequence[Told], *, weighed: bool
) -> Mapping[int, consensus.Consensus]:
    wanted = [
        each for each in found if each.task.progress.state in (State.LABELLED, State.DISPUTED) and each.labels
    ]
    if not weighed:
        return {
            each.task.number: consensus.majority(project.kind, list(each.labels.values())) for each in wanted
        }
    answers = {each.task.number: each.labels for each in found if each.labels}
    resolve = consensus.resolver(project.kind, project.labels, answers)
    return {each.task.number: resolve(each.task.number) for each in wanted}


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


def _verdict(value: int) -> Verdict:
    try:
        return Verdict(pb.ReviewLabelTaskRequest.Verdict.Name(value).removeprefix("VERDICT_").lower())  # type: ignore[arg-type]
    except ValueError:
        raise InvalidArgument.of("verdict", f"must be one of {', '.join(Verdict)}") from None
