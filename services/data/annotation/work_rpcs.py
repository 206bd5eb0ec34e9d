"""Methods of those who label: take tasks, answer them."""

import asyncio
from datetime import datetime

from google.protobuf.empty_pb2 import Empty

from aios.data.v1 import annotation_service_pb2 as pb
from aios.errors import InvalidArgument
from aios.labels import wire
from aios.names import DatasetVersionName, LabelProjectName, LabelTaskName
from aios.records import Tx
from aios.runtime.context import principal
from services.data import dataset_store, datasets, layout
from services.data.annotation import lease_store, mapping, store
from services.data.annotation.projects import LabelProject
from services.data.annotation.settle import annotated
from services.data.annotation.task_rpcs import check
from services.data.annotation.tasks import LabelLeaseLost
from services.data.annotation.work import Annotation, Lease, Prelabelled, Task
from services.data.rpcs import Context, Rpcs
from services.data.upload_rpcs import download_of

LEASES_MAX = 20  # of one annotator in one label project: what others wait for, and one message holds


class LabelWorkRpcs(Rpcs):
    """Who labels sees the item and a model's proposal, and nothing of what others said."""

    async def LeaseLabelTasks(
        self, request: pb.LeaseLabelTasksRequest, context: Context
    ) -> pb.LeaseLabelTasksResponse:
        name = LabelProjectName.parse(request.parent, "parent")
        if not 0 <= request.count <= LEASES_MAX:
            raise InvalidArgument.of("count", f"must be 0 to {LEASES_MAX}")
        annotator = principal().subject

        def lease(tx: Tx) -> pb.LeaseLabelTasksResponse:
            project = store.get_project(tx, name)
            return _take(tx, project, annotator, request.count or 1, tx.now())

        answer = await self._db.once(request, lease, pb.LeaseLabelTasksResponse)
        project = await self._db.read(lambda tx: store.get_project(tx, name))
        # After what is stored for repeated requests: a URL is a secret, and ends sooner than that.
        await self._sign(project.version, answer)
        return answer

    async def SubmitLabel(self, request: pb.SubmitLabelRequest, context: Context) -> Empty:
        name = LabelTaskName.parse(request.name)
        annotator = principal().subject
        if request.HasField("label") == bool(request.skip_reason):
            raise InvalidArgument.of("skip_reason", "must be given without a label, and not with one")
        reason = datasets.check_text(request.skip_reason, "skip_reason")

        def submit(tx: Tx) -> Empty:
            project = store.get_project(tx, LabelProjectName(name.project, name.label_project))
            task, now = store.get_task(tx, name), tx.now()
            lease = lease_store.find_lease(tx, name, annotator, request.fence)
            if lease is None:
                raise LabelLeaseLost(f"{name} is not yours: take another one.", name=str(name))
            lease_store.end_lease(tx, name, annotator)
            annotated(tx, project, task, _answer(project, task, lease, request, reason, now))
            return Empty()

        return await self._db.once(request, submit, Empty)

    async def _sign(self, version: DatasetVersionName, answer: pb.LeaseLabelTasksResponse) -> None:
        """Say where the files of leased items are."""
        files = {each.item.path for each in answer.leases if not each.item.HasField("row")}
        if not files:
            return
        stored = await self._db.read(lambda tx: dataset_store.get_version(tx, version))
        manifest = await self._contents.manifest(version.project, stored.manifest_sha256)
        tree = await self._contents.tree(version.project, manifest)
        leaves = {leaf.path: leaf for leaf in (await asyncio.to_thread(tree.find, sorted(files))).leaves()}

        await self._blobs.ready(version.project)

        def url(sha256: str) -> str:
            return self._blobs.presigned_get(layout.blob(version.project, sha256)).url

        def key(sha256: str) -> bytes:
            return self._blobs.key_of(layout.blob(version.project, sha256))

        for each in answer.leases:
            if each.item.path in leaves and not each.item.HasField("row"):
                each.download.CopyFrom(download_of(leaves[each.item.path], url, key))


def _take(
    tx: Tx, project: LabelProject, annotator: str, count: int, now: datetime
) -> pb.LeaseLabelTasksResponse:
    """What somebody has, for as long again, and new tasks up to a count."""
    name, until = project.name, now + project.lease
    answer = pb.LeaseLabelTasksResponse()
    lease_store.renew(tx, name, annotator, until)
    held = lease_store.leases_of(tx, name, annotator)
    for lease in held[:count]:
        task = store.get_task(tx, LabelTaskName(name.project, name.label_project, str(lease.number)))
        answer.leases.append(mapping.lease_to_proto(lease, task))
    wanted = min(count, LEASES_MAX) - len(held)
    met = lease_store.answers_of(tx, name, annotator) + len(held)
    candidates = lease_store.next_tasks(tx, name, annotator, project.rules.overlap, now, max(wanted, 0))
    for turn in range(met + 1, met + wanted + 1):
        gold = None
        if project.gold_every and turn % project.gold_every == 0:
            gold = lease_store.next_gold(tx, name, annotator)
        task_or_none = gold or (candidates.pop(0) if candidates else None)
        if task_or_none is None:
            continue  # a later turn may be one for a known label
        task = task_or_none
        lease = Lease(task.number, annotator, task.fence + 1, now, until)
        lease_store.take(tx, task, lease, now)
        answer.leases.append(mapping.lease_to_proto(lease, task))
    return answer


def _answer(
    project: LabelProject,
    task: Task,
    lease: Lease,
    request: pb.SubmitLabelRequest,
    reason: str,
    now: datetime,
) -> Annotation:
    label = None
    if request.HasField("label"):
        label = check(project, task.item, wire.label_from_proto(request.label), "label")
    prelabelled = Prelabelled.NONE
    if label is not None and task.prelabel is not None:
        same = task.prelabel.label == label
        prelabelled = Prelabelled.ACCEPTED if same else Prelabelled.EDITED
    seconds = (now - lease.lease_time).total_seconds()
    return Annotation(lease.annotator, label, reason, prelabelled, seconds, now)
