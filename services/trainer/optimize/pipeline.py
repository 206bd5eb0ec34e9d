"""The steps of a plan, one after the other: from an original to a variant that can be served."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from aios.common.v1 import tensor_pb2
from services.trainer.job.export import to_onnx
from services.trainer.job.outputs import MODEL_FILE
from services.trainer.job.result import MAX_BATCH_SIZE, NETWORK_FILE
from services.trainer.optimization import TECHNIQUES, Form, words
from services.trainer.optimize import networks, task
from services.trainer.optimize.networks import Net
from services.trainer.optimize.task import Task

EXPORT_SAMPLES = 8
Steps = Sequence[Mapping[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class Original:
    """The model version that everything starts from."""

    folder: Path
    file: Path
    task: Task


@dataclass(frozen=True)
class Variant:
    """What some steps made of it."""

    words: str
    steps: Steps
    folder: Path
    signature: tensor_pb2.Signature
    calibration: str
    """sha256 of the samples that scales or Gram matrices are from; empty where none are."""

    @property
    def file(self) -> Path:
        """The model that is served."""
        return self.folder / MODEL_FILE

    @property
    def trained(self) -> Steps:
        """The steps that trained it further."""
        return [step for step in self.steps if all(TECHNIQUES[name].trains for name in step)]


def make(original: Original, steps: Steps, folder: Path) -> Variant:
    """Take the steps. What they say is printed.

    Raises:
        NotOptimizable: a step cannot take this model.
    """
    folder.mkdir(parents=True)
    target = folder / MODEL_FILE
    source, signature = original.file, original.task.signature
    samples = 0
    net: Net | None = None
    for step in steps:
        ((name, settings),) = step.items()
        print(f"  {words([step])}", flush=True)
        apply = import_module(f"services.trainer.optimize.{name}").apply
        samples = max(samples, _calibration(name, settings))
        if TECHNIQUES[name].form is Form.EXPORT:
            signature = apply(net or networks.load(original.folder), original.task, settings, folder)
            net = None
            continue
        if TECHNIQUES[name].form is Form.NETWORK:
            net = apply(net or networks.load(original.folder), original.task, settings)
            continue
        if net is not None:
            signature = export(net, original.task, folder)
            source = target.rename(folder / "float32.onnx")
        apply(source, target, original.task, settings)
        if net is not None:
            source.unlink()
            net = None
    if net is not None:
        signature = export(net, original.task, folder)
        net.save(folder)
    digest = task.digest(original.task.calibration(samples)) if samples else ""
    return Variant(words(steps), steps, folder, signature, digest)


def _calibration(name: str, settings: Mapping[str, Any]) -> int:
    """How many samples a technique looks at for scales or Gram matrices."""
    if "calibration" in settings:
        return int(settings["calibration"])
    return (
        int(settings.get("samples", 0)) if not TECHNIQUES[name].trains and settings.get("aware", True) else 0
    )


def tuned_original(original: Original, steps: Steps, folder: Path) -> Variant | None:
    """The original after the same further training; None where it has no weights to train."""
    if not steps or not (original.folder / NETWORK_FILE).is_file():
        return None
    first = next(iter(steps[0].values()))
    settings = {key: first[key] for key in TECHNIQUES["fine_tune"].settings} | {"epochs": epochs(steps)}
    print("the original, trained as long:", flush=True)
    return make(original, [{"fine_tune": settings}], folder)


def epochs(trained: Steps) -> int:
    """Of all steps that trained; an ensemble trains every member but the first, which is the original."""
    return sum(
        each["epochs"] * (each["members"] - 1 if name == "ensemble" else 1)
        for step in trained
        for name, each in step.items()
    )


def export(net: Net, given: Task, folder: Path) -> tensor_pb2.Signature:
    """Write the model that is served, with the names of the original's tensors."""
    wanted = given.signature
    return to_onnx(
        net.module,
        given.test.inputs[:EXPORT_SAMPLES],
        folder,
        input_name=wanted.inputs[0].name,
        output_name=wanted.outputs[0].name,
        labels=list(wanted.labels),
        max_batch_size=wanted.max_batch_size or MAX_BATCH_SIZE,
    )
