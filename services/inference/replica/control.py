"""The replica's side of the inference and data services, over gRPC through the public door."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from aios import transfer
from aios.client.transfer import Store, put_blob
from aios.common.v1.tensor_pb2 import TensorSpec
from aios.data.v1.data_service_pb2 import ListDownloadsRequest
from aios.data.v1.data_service_pb2_grpc import DataServiceStub
from aios.errors import Aborted, AiosError, DeadlineExceeded, Unavailable
from aios.inference.v1 import (
    deployment_pb2,
    inference_service_pb2,
    monitoring_pb2,
    monitoring_service_pb2,
)
from aios.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from aios.inference.v1.monitoring_service_pb2_grpc import MonitoringServiceStub
from aios.names import JobName, check_id
from services.inference.replica.payloads import Answer, Stored
from services.inference.replica.server import Ports
from services.inference.replica.spec import Download, PayloadLog, ReplicaSpec, Signature, State, Tensor
from services.inference.work import Work

PATIENCE_SECONDS = 60.0
"""For the services to come back while a replica starts; then the attempt ends and another follows."""

PAUSE_SECONDS = 1.0
REPORT_TIMEOUT_SECONDS = 5.0

_STATES = {
    State.STARTING: deployment_pb2.Replica.STATE_STARTING,
    State.READY: deployment_pb2.Replica.STATE_READY,
    State.FAILED: deployment_pb2.Replica.STATE_FAILED,
}
_log = logging.getLogger(__name__)


class GrpcControlPlane:
    """A `ControlPlane` for one attempt of one job."""

    def __init__(self, channel: grpc.aio.Channel, job: str, epoch: int, ports: Ports) -> None:
        self._inference = InferenceServiceStub(channel)
        self._data = DataServiceStub(channel)
        self._monitoring = MonitoringServiceStub(channel)
        self._job = job
        self._epoch = epoch
        self._ports = ports
        self._unheard = False

    async def spec(self) -> ReplicaSpec:
        """What this replica serves. Waits for a service that is not there."""
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        request = inference_service_pb2.GetReplicaSpecRequest(job=self._job)
        while True:
            try:
                return spec_from_proto(await self._inference.GetReplicaSpec(request))
            except (Unavailable, DeadlineExceeded) as error:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                _log.warning("waiting for the inference service: %s", error.message)
            await asyncio.sleep(PAUSE_SECONDS)

    async def downloads(self, model_version: str) -> Sequence[Download]:
        """The files of a model version, with fresh URLs."""
        request = ListDownloadsRequest(parent=model_version)
        found = []
        while True:
            page = await self._data.ListDownloads(request)
            found += [
                Download(
                    each.file.path, each.file.sha256, each.file.size_bytes, each.url, each.encryption_key
                )
                for each in page.downloads
            ]
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def store_payloads(self, stored: Stored) -> None:
        """Upload a file of kept predictions and add it to the deployment's log."""
        async with transfer.client() as http:
            store = Store(self._data, http, str(JobName.parse(self._job).parent))
            sha256, size = await asyncio.to_thread(transfer.digest, stored.path)
            await put_blob(store, sha256, stored.path, lambda _: None)
        file = monitoring_pb2.PayloadFile(
            sha256=sha256,
            size_bytes=size,
            rows=stored.rows,
            start_time=_timestamp(stored.start),
            end_time=_timestamp(stored.end),
            dropped=stored.dropped,
            answers=map(_answer, stored.answers),
        )
        await self._monitoring.ReportPayloads(
            monitoring_service_pb2.ReportPayloadsRequest(job=self._job, epoch=self._epoch, file=file)
        )

    async def report(self, state: State, message: str, work: Work | None = None) -> None:
        """Tell the state; see `ControlPlane.report`."""
        request = inference_service_pb2.ReportReplicaRequest(
            job=self._job,
            epoch=self._epoch,
            state=_STATES[state],
            message=message,
            host=self._ports.host,
            http_port=self._ports.http,
            grpc_port=self._ports.grpc,
            work=inference_service_pb2.ReplicaWork(**asdict(work)) if work else None,
        )
        try:
            await self._inference.ReportReplica(request, timeout=REPORT_TIMEOUT_SECONDS)
        except Aborted:
            raise
        except AiosError as error:
            if not self._unheard:  # once, not every other second
                _log.warning("the state %s was not heard: %s", state.name, error.message)
            self._unheard = True
        else:
            self._unheard = False


def spec_from_proto(proto: inference_service_pb2.ReplicaSpec) -> ReplicaSpec:
    """The values of a replica's spec; the deployment's id is checked because it becomes a path."""
    signature, log = proto.signature, proto.payload_log
    return ReplicaSpec(
        deployment_id=check_id(proto.deployment_id, "deployment_id"),
        revision=proto.revision,
        model_version=proto.model_version,
        signature=Signature(
            inputs=tuple(_tensor(each) for each in signature.inputs),
            outputs=tuple(_tensor(each) for each in signature.outputs),
            max_batch_size=signature.max_batch_size,
        ),
        batch_delay_micros=proto.batch_delay_micros,
        manifest_sha256=proto.manifest_sha256,
        labels=tuple(signature.labels),
        payload_log=PayloadLog(log.sample_rate, tuple(log.redact), log.window_seconds)
        if log.sample_rate
        else None,
    )


def _tensor(proto: TensorSpec) -> Tensor:
    return Tensor(proto.name, proto.datatype, tuple(proto.shape))


def _answer(each: Answer) -> monitoring_pb2.Answer:
    made = monitoring_pb2.Answer(trace_id=each.trace_id, request_id=each.request_id, instance=each.instance)
    if isinstance(each.said, str):
        made.label = each.said
    else:
        made.value = each.said
    return made


def _timestamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
