"""Static int8 by PyTorch's own export path, PT2E (torchao): the network's graph is captured, each convolution and linear
layer gets its quantisers, x ≈ s·(q − z), and what comes of it is written with its scales in pairs of QuantizeLinear and
DequantizeLinear, which ONNX Runtime runs in 8 bits.

Weights are signed with one scale an output channel, activations unsigned with one each, from the range that calibration
samples give them; normalisations are folded into the convolutions before. Biases stay float32.
"""

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from aios.common.v1 import tensor_pb2
from services.trainer.job import export
from services.trainer.job.result import MAX_BATCH_SIZE
from services.trainer.optimize.networks import Net
from services.trainer.optimize.task import Task, logits

EXAMPLES = 8
STEPS = 0.05
"""Largest difference of an answer, on as many samples of the validation part as a batch may have, as a share of the range of
all answers. A sum that falls on the edge between two steps of an activation is rounded to either side: one step of 255 each
layer, and what the layers after it make of it."""


def apply(net: Net, task: Task, settings: Mapping[str, Any], folder: Path) -> tensor_pb2.Signature:
    """Write the quantised model."""
    with quiet():
        prepared = prepare(net, task, settings["samples"], trains=False)
        return write(prepared, task, folder)


def prepare(net: Net, task: Task, samples: int, *, trains: bool) -> nn.Module:
    """The network's graph with quantisers in it, whose ranges are those of calibration samples."""
    from torchao.quantization.pt2e import allow_exported_model_train_eval
    from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e, prepare_qat_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    module = folded(net.copy().module).train(trains)
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(module, (task.train.inputs[:EXAMPLES],), dynamic_shapes=({0: batch},))
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config(is_qat=trains))
    into = prepare_qat_pt2e if trains else prepare_pt2e
    prepared: nn.Module = allow_exported_model_train_eval(into(program.module(), quantizer))
    watch(prepared, on=True)
    chosen = task.calibration(samples)
    prepared.eval()
    with torch.no_grad():
        for part in chosen.split(MAX_BATCH_SIZE):
            prepared(part)
    watch(prepared, on=False)
    return prepared


def folded(module: nn.Module) -> nn.Module:
    """Each batch normalisation as part of the convolution before it."""
    for chain in [each for each in module.modules() if isinstance(each, nn.Sequential)]:
        for index in range(1, len(chain)):
            before, norm = chain[index - 1], chain[index]
            holder, place = (
                (before, len(before) - 1) if isinstance(before, nn.Sequential) else (chain, index - 1)
            )
            convolution = holder[place]
            if isinstance(norm, nn.BatchNorm2d) and isinstance(convolution, nn.Conv2d):
                holder[place] = fuse_conv_bn_eval(convolution.eval(), norm.eval())
                chain[index] = nn.Identity()
    return module


def watch(prepared: nn.Module, *, on: bool) -> None:
    """Whether quantisers that train with the network follow the ranges that they see."""
    from torchao.quantization.pt2e import disable_observer, enable_observer

    prepared.apply(enable_observer if on else disable_observer)


def write(prepared: nn.Module, task: Task, folder: Path) -> tensor_pb2.Signature:
    """Export in 8 bits, and compare what ONNX Runtime answers with the quantised network itself."""
    from torchao.quantization.pt2e import allow_exported_model_train_eval
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    converted = allow_exported_model_train_eval(convert_pt2e(copy.deepcopy(prepared)))
    wanted = task.signature
    most = wanted.max_batch_size or MAX_BATCH_SIZE
    inputs = task.validation.inputs[:most]
    spread = logits(converted, inputs)
    return export.to_onnx(
        converted,
        inputs,
        folder,
        input_name=wanted.inputs[0].name,
        output_name=wanted.outputs[0].name,
        labels=list(wanted.labels),
        max_batch_size=most,
        tolerance=STEPS * float(spread.max() - spread.min()),
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Without what the capture says of its own code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
