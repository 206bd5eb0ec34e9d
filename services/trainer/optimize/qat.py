"""Quantisation-aware fine-tuning: the network is trained on with its rounding in place (Jacob et al. 2018).

Forward, weights and activations are what 8 bits leave of them, s·(clamp(round(x/s) + z) − z); backward, rounding is
taken for the identity within the range, and for a constant outside it (straight through, Bengio et al. 2013). Scales
follow the ranges by a moving average. Quantisers and export are those of `pt2e`. The better of before and after is kept,
by accuracy on the validation part.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.nn import functional

from aios.common.v1 import tensor_pb2
from services.trainer.optimize import pt2e
from services.trainer.optimize.fine_tune import fit
from services.trainer.optimize.networks import Net
from services.trainer.optimize.task import Task, accuracy


def apply(net: Net, task: Task, settings: Mapping[str, Any], folder: Path) -> tensor_pb2.Signature:
    """Write the quantised model, trained on where that helps."""
    with pt2e.quiet():
        before = pt2e.prepare(net, task, settings["calibration"], trains=True)
        after = copy.deepcopy(before)
        pt2e.watch(after, on=True)
        fit(
            Net(after, net.description),
            task,
            settings,
            lambda _, logits, labels: functional.cross_entropy(logits, labels),
        )
        pt2e.watch(after, on=False)
        return pt2e.write(max(before, after, key=lambda each: accuracy(each, task.validation)), task, folder)
