"""`python -m services.inference.explain`: explain one kept prediction, then end.

Exit codes: 0 done, 1 failed (the log says why).
"""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aios import transfer
from aios.client.pull import pull
from aios.client.transfer import Store, push
from aios.common.v1.tensor_pb2 import Signature
from aios.config import Settings
from aios.data.v1 import data_service_pb2
from aios.data.v1.data_service_pb2_grpc import DataServiceStub
from aios.errors import AiosError, FailedPrecondition, InvalidArgument, NotFound
from aios.inference.v1 import monitoring_service_pb2
from aios.inference.v1.monitoring_service_pb2_grpc import MonitoringServiceStub
from aios.names import ExplanationName
from aios.runtime import telemetry
from aios.runtime.channel import door_channel
from aios.runtime.token_files import TokenSource, token_file
from services.inference.explain import kept
from services.inference.watch.task import VARIABLE, Task

SAME = 1e-3
"""Largest difference of an output that counts as the same answer: batches of other sizes add up in other orders."""


def main() -> None:
    """Explain the prediction that this job was made for."""
    try:
        settings = Settings.load()
        if settings.token_file is None or VARIABLE not in os.environ:
            raise FailedPrecondition("This is no job of the platform.", reason="NO_JOB")
        task = Task.from_json(json.loads(os.environ[VARIABLE]))
        token = token_file(settings.token_file)
        if settings.telemetry:
            telemetry.setup_job("inference.explain", settings, token)
        try:
            with telemetry.span("explain", traceparent=os.environ.get("TRACEPARENT")):
                asyncio.run(_explain(settings, token, task))
        finally:
            telemetry.shutdown()
    except AiosError as error:
        sys.exit(f"{error.reason}: {error.message}")


async def _explain(settings: Settings, token: TokenSource, task: Task) -> None:
    channel = door_channel(settings.address, token)
    project = f"projects/{ExplanationName.parse(task.name).project}"
    data = DataServiceStub(channel)
    scratch = Path(os.environ.get("AIOS_SCRATCH") or tempfile.mkdtemp(prefix="aios-"))
    async with channel, transfer.client() as http:
        store = Store(data, http, project)
        found = await _find(store, task, scratch)
        version = task.models.get(found.revision)
        if version is None:
            raise NotFound(f"{found.revision} is not among the revisions that can be asked again.")
        model = await data.GetModelVersion(data_service_pb2.GetModelVersionRequest(name=version))
        await pull(store, version, scratch / "model")
        # The loop stays free for the connection's keepalive.
        folder = await asyncio.to_thread(_report, task, found, version, model.signature, scratch)
        files = await push(store, folder)
        await MonitoringServiceStub(channel).CompleteExplanation(
            monitoring_service_pb2.CompleteExplanationRequest(
                name=task.name, epoch=int(os.environ["AIOS_EPOCH"]), revision=found.revision, files=files
            )
        )


async def _find(store: Store, task: Task, scratch: Path) -> kept.Kept:
    for number, version in enumerate(task.versions):
        folder = scratch / f"kept-{number}"
        await pull(store, version, folder)
        found = await asyncio.to_thread(kept.find, folder, task.trace_id, task.request_id, task.instance)
        if found is not None:
            print(f"found in {version}", flush=True)
            return found
    what = f"trace {task.trace_id}" if task.trace_id else f"request {task.request_id!r}"
    raise NotFound(
        f"No prediction of {what} is among the newest {len(task.versions)} versions of kept ones. "
        "One of the present window is in none yet.",
        reason="PREDICTION_NOT_KEPT",
    )


def _report(task: Task, found: kept.Kept, version: str, signature: Signature, scratch: Path) -> Path:
    from services.inference.explain import attribute, page

    models = sorted((scratch / "model").rglob("*.onnx"), key=lambda each: (each.name != "model.onnx", each))
    if not models:
        raise FailedPrecondition(f"{version} has no ONNX file to be asked.", reason="NOT_EXPLAINABLE")
    model = attribute.Model(models[0], batches=bool(signature.max_batch_size))
    inputs = found.inputs(signature)
    if set(inputs) != set(model.inputs):
        raise FailedPrecondition(
            f"{version} takes other inputs than its signature says.", reason="NOT_EXPLAINABLE"
        )
    labels = list(signature.labels)
    explained = attribute.explain(
        model,
        inputs,
        found.baseline(signature),
        method=task.method,
        target=_target(task.target, labels),
    )
    named = labels[explained.target] if explained.target < len(labels) else str(explained.target)
    off = _difference(model.ask({name: inputs[name][None] for name in model.inputs})[0], found.row, signature)
    facts: dict[str, object] = {
        "revision": found.revision,
        "model version": version,
        "trace": found.row["trace_id"],
        "request": found.row["request_id"],
        "instance": task.instance,
        "time": found.time,
        "answer": found.label or named,
        "explained": f"{named}: {explained.score:.6g}",
        "method": explained.method.replace("_", " "),
        "largest difference of the repeated answer": "not kept" if off is None else f"{off:.2g}",
    }
    if explained.method == attribute.GRADIENTS:
        facts["attributions add up to the change of the score but for"] = f"{abs(explained.gap):.2g}"
    if off is not None and off > SAME:
        explained = attribute.noted(explained, "Beware: the model answers otherwise than it did then.")
    folder = scratch / "report"
    folder.mkdir()
    title = f"Why {named}: {task.name.rsplit('/', 3)[1]}"
    (folder / "report.html").write_text(page.page(title, facts, explained, inputs, labels))
    (folder / "report.json").write_text(
        json.dumps(page.numbers(facts, explained, inputs), allow_nan=False) + "\n"
    )
    for name, each in explained.attributions.items():
        if page.is_image(each.shape):
            (folder / "attribution.png").write_bytes(page.png(page.picture(inputs[name], each)))
            break
    print(json.dumps(facts), flush=True)
    return folder


def _target(text: str, labels: list[str]) -> int | None:
    if not text:
        return None
    if text in labels:
        return labels.index(text)
    if text.isdecimal():
        return int(text)
    raise InvalidArgument.of(
        "target", f"must be one of {', '.join(labels[:20]) or 'the outputs, counted from 0'}"
    )


def _difference(again: Any, row: Mapping[str, Any], signature: Signature) -> float | None:
    logged = kept.outputs(row).get(f"output.{signature.outputs[0].name}")
    if logged is None or logged.size != again.size:
        return None
    return float(np.abs(logged.ravel() - again).max())


if __name__ == "__main__":
    main()
