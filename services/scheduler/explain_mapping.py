"""Explanations to protos."""

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from aios.scheduler.v1 import explanation_pb2, job_pb2
from services.scheduler.explain import Alternative, Explanation, Holder, Prediction
from services.scheduler.queue_mapping import amounts_to_proto


def explanation_to_proto(found: Explanation) -> explanation_pb2.Explanation:
    stopped = [each.end_time for each in found.preempted if each.end_time]
    return explanation_pb2.Explanation(
        job=str(found.job.name),
        state=job_pb2.Job.State.Value(f"STATE_{found.job.state}"),
        reason=found.reason.code,
        message=found.reason.message,
        holders=map(_holder, found.holders),
        prediction=_prediction(found.prediction) if found.prediction else None,
        unpredicted=found.unpredicted,
        alternatives=map(_alternative, found.alternatives),
        attempts=len(found.attempts),
        preemptions=len(found.preempted),
        losses=found.lost,
        failures=found.job.failures,
        preempt_time=_stamp(max(stopped)) if stopped else None,
    )


def _holder(holder: Holder) -> explanation_pb2.Holder:
    return explanation_pb2.Holder(
        job=str(holder.job) if holder.job else "",
        jobs=holder.jobs,
        held=amounts_to_proto(holder.held),
        end_time=_stamp(holder.end) if holder.end else None,
    )


def _prediction(said: Prediction) -> explanation_pb2.Prediction:
    return explanation_pb2.Prediction(
        start_time=_stamp(said.start),
        earliest_time=_stamp(said.earliest),
        latest_time=_stamp(said.latest) if said.latest else None,
        basis=said.basis,
    )


def _alternative(other: Alternative) -> explanation_pb2.Alternative:
    return explanation_pb2.Alternative(code=other.code, message=other.message, start_time=_stamp(other.start))


def _stamp(moment: datetime) -> Timestamp:
    proto = Timestamp()
    proto.FromDatetime(moment)
    return proto
