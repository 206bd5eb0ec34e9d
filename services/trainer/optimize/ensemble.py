"""Ensembles: several networks answer together, as one graph.

Members: `seeds`, networks of the same kind trained anew from other random weights (Lakshminarayanan et al. 2017), or
`snapshots`, one network whose learning rate falls along a cosine and starts again, kept at each low (Huang et al. 2017).
The original is the first member.

Combined by the mean of probabilities, log(1/M·Σ softmax(z_m)), or stacked (Wolpert 1992): a linear layer over the
members' log-probabilities, which begins as their mean and is fitted to one half of the validation part, with L2 towards
that mean; it is kept where it does better on the other half. The original has mostly learnt from both halves, and so,
by way of it, have snapshots: a stack trusts them more than it should. Of `seeds` all members but the first are free of this.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional

from services.trainer.optimize import networks
from services.trainer.optimize.fine_tune import fit
from services.trainer.optimize.networks import Ensemble, Net
from services.trainer.optimize.task import Split, Task, accuracy

STACK_STEPS = 200
STACK_RATE = 0.01
STACK_DECAY = 0.01


def apply(net: Net, task: Task, settings: Mapping[str, Any]) -> Net:
    """The ensemble as one network."""
    networks.plain(net, "ensemble")
    members = [net]
    for number in range(1, settings["members"]):
        torch.manual_seed(task.seed + number)
        anew = settings["kind"] == "seeds"
        member = networks.build(net.description) if anew else members[-1].copy()
        fit(member, task, settings, lambda _, logits, labels: functional.cross_entropy(logits, labels))
        members.append(member)
    description = {
        **{key: net.description[key] for key in ("classes", "size")},
        "recipe": networks.ENSEMBLE,
        "members": [dict(member.description) for member in members],
    }
    mean = Ensemble([member.module for member in members]).eval()
    if settings["combine"] == "mean":
        return Net(mean, description)
    stacked = stack(mean, net.description["classes"], task.validation)
    return Net(mean, description) if stacked is None else Net(stacked, {**description, "stacked": True})


def stack(mean: Ensemble, classes: int, held: Split) -> Ensemble | None:
    """The same members under a fitted layer; None where it is no better on samples that the layer was not fitted to."""
    middle = len(held.inputs) // 2
    fitted, unseen = (
        Split(held.inputs[part], held.labels_N[part]) for part in (slice(middle), slice(middle, None))
    )
    stacked = Ensemble(list(mean.members), classes).eval()
    assert stacked.stack is not None
    with torch.no_grad():
        said = torch.cat([stacked.said(part) for part in fitted.inputs.split(500)])
    start = stacked.stack.weight.detach().clone()
    optimizer = torch.optim.Adam(stacked.stack.parameters(), lr=STACK_RATE)
    for _ in range(STACK_STEPS):
        apart = (stacked.stack.weight - start).square().sum()
        loss = functional.cross_entropy(stacked.stack(said), fitted.labels_N) + STACK_DECAY * apart
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return stacked if accuracy(stacked, unseen) > accuracy(mean, unseen) else None
