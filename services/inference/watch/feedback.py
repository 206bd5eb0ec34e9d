"""What turned out to be right: said of predictions by trace or request, and joined with them in a drift report."""

import re
from collections.abc import Sequence

from google.protobuf.json_format import MessageToDict

from aios.errors import InvalidArgument
from aios.inference.v1 import monitoring_pb2
from aios.names import DeploymentName
from aios.records import Database, Tx
from services.inference import store as deployments
from services.inference.watch import store
from services.inference.watch.store import Truth

AT_ONCE_MAX = 1_000
REQUEST_CHARS_MAX = 255
TEXT_CHARS_MAX = 1_000
_TRACE = re.compile(r"[0-9a-f]{32}")


class FeedbackLog:
    """Feedback of every deployment."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def add(self, name: DeploymentName, said: Sequence[monitoring_pb2.Feedback]) -> int:
        """Keep what was said; of the same instance, the newest.

        Raises:
            InvalidArgument: naming each that cannot be kept.
        """
        if not 1 <= len(said) <= AT_ONCE_MAX:
            raise InvalidArgument.of("feedback", f"must be 1 to {AT_ONCE_MAX}, not {len(said)}")
        wrong = {f"feedback[{index}]": what for index, each in enumerate(said) if (what := _problem(each))}
        if wrong:
            raise InvalidArgument("; ".join(f"{at}: {what}" for at, what in wrong.items()), fields=wrong)
        truths = {
            (each.trace_id or f"request/{each.request_id}", each.instance): MessageToDict(each)["truth"]
            for each in said
        }

        def write(tx: Tx) -> None:
            deployments.get(tx, name)
            store.add_feedback(tx, name, [Truth(*key, truth) for key, truth in truths.items()])

        await self._db.write(write)
        return len(said)


def _problem(said: monitoring_pb2.Feedback) -> str:
    if bool(said.trace_id) == bool(said.request_id):
        return "must name a trace_id or a request_id"
    if said.trace_id and not _TRACE.fullmatch(said.trace_id):
        return f"trace_id must be 32 hexadecimal digits, not {said.trace_id[:80]!r}"
    if len(said.request_id) > REQUEST_CHARS_MAX - len("request/"):
        return f"request_id must not be longer than {REQUEST_CHARS_MAX - len('request/')} characters"
    if said.instance < 0:
        return "instance must not be negative"
    kind = said.truth.WhichOneof("kind")
    if kind not in ("number_value", "string_value", "bool_value"):
        return "truth must be a label or a number"
    if len(said.truth.string_value) > TEXT_CHARS_MAX:
        return f"truth must not be longer than {TEXT_CHARS_MAX} characters"
    return ""
