"""Label projects and tasks: protos to domain and back."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import Struct

from aios.data.v1 import annotation_pb2 as pb
from aios.errors import InvalidArgument
from aios.labels import wire
from aios.names import DatasetVersionName, LabelProjectName
from services.data.annotation import projects
from services.data.annotation.projects import LabelProject
from services.data.annotation.tasks import Rules, State
from services.data.annotation.work import Annotation, Item, Lease, Prelabel, Task
from services.data.mapping import stamp

DATA_BYTES_MAX = 64 * 1024
SOURCE_CHARS_MAX = 255
SIDE_MAX = 1_000_000


def project_from_proto(
    proto: pb.LabelProject,
    name: LabelProjectName,
    version: DatasetVersionName,
    creator: str,
    now: datetime,
    at: str,
) -> LabelProject:
    """A label project by the rules, with what was left out filled in.

    Raises:
        InvalidArgument: naming the field below `at`.
    """
    kind = wire.kind_from_proto(proto.kind, f"{at}.kind")
    overlap = projects.check_number(proto.overlap, projects.OVERLAP_MAX, f"{at}.overlap")
    share = projects.check_share(proto.agreement_min, f"{at}.agreement_min")
    skips = projects.check_number(proto.skips_max, projects.SKIPS_MAX, f"{at}.skips_max")
    gold = projects.check_number(proto.gold_every, projects.GOLD_EVERY_MAX, f"{at}.gold_every")
    seconds = proto.lease_duration.seconds + proto.lease_duration.nanos / 1e9
    lease = timedelta(seconds=min(max(seconds, -1.0), 1e6))
    return LabelProject(
        name=name,
        version=version,
        kind=kind,
        labels=projects.check_labels(proto.labels, f"{at}.labels"),
        instructions=proto.instructions,
        rules=Rules(overlap or 1, share or projects.AGREEMENT_MIN[kind], skips or 3, proto.accept_agreed),
        lease=projects.check_lease(lease, f"{at}.lease_duration"),
        gold_every=gold,
        creator=creator,
        create_time=now,
    )


def project_to_proto(found: LabelProject) -> pb.LabelProject:
    return pb.LabelProject(
        name=str(found.name),
        dataset_version=str(found.version),
        kind=wire.kind_to_proto(found.kind),
        labels=found.labels,
        instructions=found.instructions,
        overlap=found.rules.overlap,
        agreement_min=found.rules.agreement_min,
        lease_duration=duration(found.lease.total_seconds()),
        skips_max=found.rules.skips_max,
        gold_every=found.gold_every,
        accept_agreed=found.rules.accept_agreed,
        create_time=stamp(found.create_time),
        creator=found.creator,
        counts=found.counts,
        gold_count=found.gold,
    )


def item_from_proto(proto: pb.LabelItem, at: str) -> Item:
    """An item.

    Raises:
        InvalidArgument: naming the field below `at`.
    """
    row = proto.row if proto.HasField("row") else None
    if row is not None and row < 0:
        raise InvalidArgument.of(f"{at}.row", "must be 0 or more")
    if proto.data.ByteSize() > DATA_BYTES_MAX:
        raise InvalidArgument.of(f"{at}.data", f"must be at most {DATA_BYTES_MAX} bytes")
    for side in ("width", "height"):
        if not 0 <= getattr(proto, side) <= SIDE_MAX:
            raise InvalidArgument.of(f"{at}.{side}", f"must be 0 to {SIDE_MAX} pixels")
    return Item(proto.path, row, MessageToDict(proto.data), proto.width, proto.height)


def item_to_proto(item: Item, *, data: bool = True) -> pb.LabelItem:
    made = pb.LabelItem(path=item.path, row=item.row, width=item.width, height=item.height)
    if data and item.data:
        made.data.CopyFrom(ParseDict(dict(item.data), Struct()))
    return made


def prelabel_from_proto(proto: pb.Prelabel, at: str) -> Prelabel:
    """A proposal; its label is still to be checked.

    Raises:
        InvalidArgument: naming the field below `at`.
    """
    if not 0 < len(proto.source) <= SOURCE_CHARS_MAX:
        raise InvalidArgument.of(f"{at}.source", f"must be 1-{SOURCE_CHARS_MAX} characters")
    if len(proto.scores) > projects.LABELS_MAX:
        raise InvalidArgument.of(f"{at}.scores", f"must be at most {projects.LABELS_MAX}")
    for name, score in proto.scores.items():
        projects.check_share(score, f"{at}.scores[{name!r}]")
    return Prelabel(wire.label_from_proto(proto.label), dict(proto.scores), proto.source)


def prelabel_to_proto(found: Prelabel) -> pb.Prelabel:
    return pb.Prelabel(label=wire.label_to_proto(found.label), scores=found.scores, source=found.source)


def prelabel_stored(proto: pb.Prelabel) -> Prelabel:
    return Prelabel(wire.label_from_proto(proto.label), dict(proto.scores), proto.source)


def task_to_proto(task: Task, annotations: Sequence[Annotation] = (), *, data: bool = True) -> pb.LabelTask:
    shown = task.label is not None and task.progress.state is not State.OPEN
    return pb.LabelTask(
        name=str(task.name),
        item=item_to_proto(task.item, data=data),
        state=pb.LabelTask.State.Value(f"STATE_{task.progress.state.name}"),
        label=wire.label_to_proto(task.label) if shown and task.label is not None else None,
        confidence=task.confidence if shown else 0.0,
        annotations=map(annotation_to_proto, annotations),
        round=task.progress.round,
        gold=task.gold,
        prelabel=prelabel_to_proto(task.prelabel) if task.prelabel and data else None,
        priority=task.priority,
        reviewer=task.reviewer,
        update_time=stamp(task.update_time),
        etag=str(task.revision),
    )


def annotation_to_proto(found: Annotation) -> pb.Annotation:
    return pb.Annotation(
        annotator=found.annotator,
        label=wire.label_to_proto(found.label) if found.label is not None else None,
        skip_reason=found.skip_reason,
        prelabelled=pb.Annotation.Prelabelled.ValueType(found.prelabelled),
        create_time=stamp(found.create_time),
        duration=duration(found.seconds),
    )


def lease_to_proto(lease: Lease, task: Task) -> pb.LabelLease:
    """What the one who has a task may know of it: neither others' labels nor whether it is gold."""
    return pb.LabelLease(
        task=str(task.name),
        fence=lease.fence,
        expire_time=stamp(lease.expire_time),
        item=item_to_proto(task.item),
        prelabel=prelabel_to_proto(task.prelabel) if task.prelabel else None,
    )


def duration(seconds: float) -> Duration:
    made = Duration()
    made.FromTimedelta(timedelta(seconds=round(seconds, 3)))
    return made
