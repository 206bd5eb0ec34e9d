"""Methods of those who decide: one task at a time, or many by a method."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

from aios.data.v1 import annotation_pb2
from aios.data.v1 import annotation_service_pb2 as pb
from aios.errors import Aborted, InvalidArgument
from aios.labels import consensus, wire
from aios.names import LabelProjectName, LabelTaskName
from aios.records import Tx
from aios.runtime.context import principal
from services.data.annotation import mapping, projects, store, tasks
from services.data.annotation.project_rpcs import announce
from services.data.annotation.projects import LabelProject
from services.data.annotation.settle import tell
from services.data.annotation.task_rpcs import check
from services.data.annotation.tasks import State, Verdict
from services.data.annotation.work import Told
from services.data.rpcs import Context, Rpcs


class LabelReviewRpcs(Rpcs):
    """What becomes of what people said."""

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


def _verdict(value: int) -> Verdict:
    try:
        return Verdict(pb.ReviewLabelTaskRequest.Verdict.Name(value).removeprefix("VERDICT_").lower())  # type: ignore[arg-type]
    except ValueError:
        raise InvalidArgument.of("verdict", f"must be one of {', '.join(Verdict)}") from None
