"""Queues: protos to domain and back."""

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from aios.common.v1 import resources_pb2
from aios.names import ProjectName, QueueName
from aios.scheduler.v1 import queue_pb2
from aios.scheduling import DEVICE_MILLIS as DEVICE
from aios.scheduling import is_device
from services.scheduler.queues import Amounts, Queue
from services.scheduler.usage import Usage


def queue_to_proto(queue: Queue, usage: Usage | None = None) -> queue_pb2.Queue:
    return queue_pb2.Queue(
        name=str(QueueName(queue.name)),
        parent=str(QueueName(queue.parent)) if queue.parent else "",
        weight=queue.weight,
        nominal=amounts_to_proto(queue.nominal),
        limit=amounts_to_proto(queue.limit),
        lending_limit=amounts_to_proto(queue.lending),
        projects=[str(ProjectName(project)) for project in queue.projects],
        usage=usage_to_proto(usage) if usage else None,
        create_time=_stamp(queue.create_time),
        update_time=_stamp(queue.update_time),
        etag=str(queue.version) if queue.version else "",
    )


def queue_from_proto(name: str, proto: queue_pb2.Queue) -> Queue:
    return Queue(
        name=name,
        parent=QueueName.parse(proto.parent, "queue.parent").queue if proto.parent else "",
        weight=proto.weight or 1.0,
        nominal=amounts_from_proto(proto.nominal),
        limit=amounts_from_proto(proto.limit),
        lending=amounts_from_proto(proto.lending_limit),
        projects=tuple(
            ProjectName.parse(project, f"queue.projects[{n}]").project
            for n, project in enumerate(proto.projects)
        ),
    )


def usage_to_proto(usage: Usage) -> queue_pb2.QueueUsage:
    return queue_pb2.QueueUsage(
        used=amounts_to_proto(usage.used),
        borrowed=amounts_to_proto(usage.borrowed),
        pending=amounts_to_proto(usage.pending),
        running_jobs=usage.running_jobs,
        pending_jobs=usage.pending_jobs,
        share=usage.share,
        recent_share=usage.recent_share,
    )


def amounts_to_proto(amounts: Amounts) -> resources_pb2.Resources:
    devices = {kind: round(n * DEVICE) for kind, n in amounts.items() if is_device(kind)}
    plain = ("cpu", "memory")
    return resources_pb2.Resources(
        cpu_millis=int(amounts.get("cpu", 0)),
        memory_bytes=int(amounts.get("memory", 0)),
        # One that is named with 0 stays named.
        accelerators={kind: millis // DEVICE for kind, millis in devices.items()},
        accelerator_millis={kind: millis % DEVICE for kind, millis in devices.items() if millis % DEVICE},
        budgets={name: int(n) for name, n in amounts.items() if not is_device(name) and name not in plain},
    )


def amounts_from_proto(proto: resources_pb2.Resources) -> Amounts:
    """An accelerator that is named with 0 stays named: for a limit that says something."""
    plain = {"cpu": proto.cpu_millis, "memory": proto.memory_bytes}
    found: dict[str, float] = {name: amount for name, amount in plain.items() if amount}
    found.update(proto.accelerators)
    found.update(proto.budgets)
    for kind, millis in proto.accelerator_millis.items():
        found[kind] = found.get(kind, 0) + millis / DEVICE
    return found


def _stamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    proto = Timestamp()
    proto.FromDatetime(moment)
    return proto
