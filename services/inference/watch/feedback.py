"""Feedback: what predictions should have been, as whoever knows it says, for the live quality of revisions."""

import math
import re

from aios.errors import InvalidArgument
from aios.inference.v1 import monitoring_pb2
from aios.inference.v1 import monitoring_service_pb2 as pb
from aios.names import DeploymentName
from aios.records import Database, Tx
from services.inference import store as deployments
from services.inference.watch import feedback_store
from services.inference.watch.feedback_store import Instance
from services.inference.watch.truth import Said

AT_ONCE_MAX = 1_000
ANSWERS_MAX = 20_000
ID_CHARS_MAX = 255
LABEL_CHARS_MAX = 1_000
_TRACE = re.compile(r"[0-9a-f]{32}")


class FeedbackDesk:
    """Takes feedback."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def report(self, request: pb.ReportFeedbackRequest) -> pb.ReportFeedbackResponse:
        """Keep what some predictions should have been.

        Raises:
            InvalidArgument: naming the field.
        """
        name = DeploymentName.parse(request.name)
        if not 0 < len(request.feedback) <= AT_ONCE_MAX:
            raise InvalidArgument.of("feedback", f"must be 1 to {AT_ONCE_MAX}, not {len(request.feedback)}")
        said = [_checked(each, f"feedback[{index}]") for index, each in enumerate(request.feedback)]

        def write(tx: Tx) -> pb.ReportFeedbackResponse:
            deployments.get(tx, name)
            joined, waiting = feedback_store.add_feedback(tx, name, said)
            return pb.ReportFeedbackResponse(joined=joined, waiting=waiting)

        return await self._db.write(write)


def answered(file: monitoring_pb2.PayloadFile) -> list[tuple[Instance, Said]]:
    """What a replica says that it answered."""
    return [
        (
            Instance(each.trace_id[:32], each.request_id[:ID_CHARS_MAX], each.instance),
            Said(
                label=each.label[:LABEL_CHARS_MAX] if each.HasField("label") else None,
                value=each.value if each.HasField("value") else None,
            ),
        )
        for each in file.answers[:ANSWERS_MAX]
    ]


def _checked(each: monitoring_pb2.Feedback, field: str) -> tuple[Instance, Said]:
    if bool(each.trace_id) == bool(each.request_id):
        raise InvalidArgument.of(f"{field}.trace_id", "must be set, or request_id, and not both")
    if each.trace_id and not _TRACE.fullmatch(each.trace_id):
        raise InvalidArgument.of(f"{field}.trace_id", "must be 32 hexadecimal digits, in lower case")
    if len(each.request_id) > ID_CHARS_MAX:
        raise InvalidArgument.of(f"{field}.request_id", f"must be {ID_CHARS_MAX} characters at most")
    if each.instance < 0:
        raise InvalidArgument.of(f"{field}.instance", "must not be negative")
    if not each.WhichOneof("truth"):
        raise InvalidArgument.of(f"{field}.label", "must be set, or value")
    if len(each.label) > LABEL_CHARS_MAX:
        raise InvalidArgument.of(f"{field}.label", f"must be {LABEL_CHARS_MAX} characters at most")
    if not math.isfinite(each.value):
        raise InvalidArgument.of(f"{field}.value", "must be a finite number")
    instance = Instance(each.trace_id, each.request_id, each.instance)
    if each.HasField("label"):
        return instance, Said(label=each.label)
    return instance, Said(value=each.value)
