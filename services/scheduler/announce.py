"""A job as watchers are told of it: the JSON of `mapping.job_to_proto`, made directly.

Every change of a job is announced, and the general way through the message costs as much as all the rest of storing it.
"""

from datetime import UTC, datetime
from typing import Any

from aios.names import NodeName
from services.scheduler import mapping
from services.scheduler.attempts import Attempt
from services.scheduler.jobs import Job


def announced(job: Job) -> dict[str, Any]:
    """Fields by the names of the proto; what is at its default is left out."""
    said = {
        "name": str(job.name),
        "spec": mapping.spec_to_json(job.spec),
        "state": f"STATE_{job.state}",
        "state_reason": job.reason,
        "state_message": job.message,
        "epoch": _count(job.epoch),
        "attempt": _attempt(job.attempt) if job.attempt else None,
        "create_time": _time(job.create_time),
        "update_time": _time(job.update_time),
        "end_time": _time(job.end_time),
        "etag": str(job.version),
        "progress": mapping.as_json(mapping.progress_to_proto(job.progress)) if job.progress else None,
    }
    return {name: value for name, value in said.items() if value not in (None, "")}


def _attempt(attempt: Attempt) -> dict[str, Any]:
    said: dict[str, Any] = {
        "job": str(attempt.job),
        "epoch": _count(attempt.epoch),
        "node": str(NodeName(attempt.node)),
        "state": f"STATE_{attempt.state}",
        "host": attempt.host,
        "ports": dict(attempt.ports),
        "end_reason": attempt.end_reason,
        "assign_time": _time(attempt.assign_time),
        "start_time": _time(attempt.start_time),
        "end_time": _time(attempt.end_time),
    }
    if attempt.replicas:
        said["replicas"] = [mapping.as_json(mapping.replica_to_proto(each)) for each in attempt.replicas]
    found: dict[str, Any] = {name: value for name, value in said.items() if value}
    return found if attempt.exit_code is None else found | {"exit_code": attempt.exit_code}


def _count(number: int) -> str:
    """64 bits are text in JSON."""
    return str(number) if number else ""


def _time(moment: datetime | None) -> str:
    """With as many digits of the second as it has: none, three or six."""
    if moment is None:
        return ""
    text = moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds")
    micros = moment.microsecond
    if not micros:
        return text + "Z"
    return f"{text}.{micros // 1000:03}Z" if micros % 1000 == 0 else f"{text}.{micros:06}Z"
