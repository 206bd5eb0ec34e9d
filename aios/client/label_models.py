"""Models in the loop of labelling: what they propose, and which items they would learn most from."""

import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aios.client import label_items
from aios.data.v1 import annotation_pb2
from aios.data.v1 import annotation_service_pb2 as pb
from aios.errors import FailedPrecondition, InvalidArgument
from aios.labels import sampling

if TYPE_CHECKING:
    from aios.client.datasets import Datasets
    from aios.client.predictions import Predictions

BATCH = 64
STRATEGIES = (*sampling.UNCERTAINTY, "k-center", "k-means")

Scores = Mapping[str, float]
"""Probability by class."""
Tasks = Sequence[annotation_pb2.LabelTask]


async def scores_of_rows(
    tasks: Tasks,
    version: str,
    datasets: "Datasets",
    predictions: "Predictions",
    deployment: str,
    classes: Sequence[str],
    columns: Sequence[str],
) -> list[Scores]:
    """What a deployment of a model of columns of numbers says of rows of tables.

    Args:
        classes: Of the model, in the order of its outputs.
    """
    by_path: dict[str, list[int]] = defaultdict(list)
    for index, task in enumerate(tasks):
        if not task.item.HasField("row"):
            raise InvalidArgument.of(
                "name", f"{task.item.path!r} is no row of a table: propose from Python, with `propose`"
            )
        by_path[task.item.path].append(index)
    found: list[Scores] = [{}] * len(tasks)
    with tempfile.TemporaryDirectory(prefix="aios-label-") as scratch:
        await datasets.pull(version, scratch, paths=list(by_path))
        for path, indices in by_path.items():
            table = label_items.read_table(Path(scratch, path))
            rows = [tasks[index].item.row for index in indices]
            x_ND = label_items.features(table, rows, columns, "label")
            for start in range(0, len(rows), BATCH):
                answer = await predictions.predict(deployment, x_ND[start : start + BATCH])
                p_BC = probabilities(answer.outputs, len(classes))
                for index, row in zip(indices[start : start + BATCH], p_BC, strict=True):
                    found[index] = dict(zip(classes, map(float, row), strict=True))
    return found


def probabilities(outputs: Mapping[str, NDArray[Any]], classes: int) -> NDArray[np.float64]:
    """The output with a number for each class, as probabilities: its softmax where it is none already.

    Raises:
        FailedPrecondition: there is no such output.
    """
    fit = [each for each in outputs.values() if each.ndim == 2 and each.shape[1] == classes]
    if not fit:
        shapes = {name: list(each.shape) for name, each in outputs.items()}
        raise FailedPrecondition(
            f"The model has no output of {classes} classes: {shapes}.", reason="NO_CLASS_OUTPUT"
        )
    p_NC = np.asarray(fit[0], float)
    if (p_NC < 0).any() or not np.allclose(p_NC.sum(axis=1), 1, atol=1e-3):
        p_NC = np.exp(p_NC - p_NC.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = p_NC / p_NC.sum(axis=1, keepdims=True)
    return shares


def proposal(
    task: annotation_pb2.LabelTask, scores: Scores, source: str, classes: Sequence[str]
) -> pb.LabelTaskUpdate:
    """A task's update with the likeliest class.

    Raises:
        InvalidArgument: the model's classes are not the label project's.
    """
    if unknown := set(scores) - set(classes):
        raise InvalidArgument.of(
            "deployment", f"its model has classes that the project lacks: {sorted(unknown)}"
        )
    update = pb.LabelTaskUpdate(name=task.name)
    update.prelabel.label.choices.append(max(scores, key=lambda name: scores[name]))
    update.prelabel.scores.update({name: min(max(score, 0.0), 1.0) for name, score in scores.items()})
    update.prelabel.source = source
    return update


def priorities(
    tasks: Tasks, labelled: Tasks, strategy: str, count: int, classes: Sequence[str], seed: int
) -> list[pb.LabelTaskUpdate]:
    """Updates that put what is worth most first.

    Args:
        tasks: Those that are open.
        labelled: Others, which what is chosen should be unlike.
        strategy: One of STRATEGIES. Uncertainty takes the scores of proposals, the others columns of numbers.

    Raises:
        InvalidArgument: no such strategy.
        FailedPrecondition: no task has what the strategy goes by.
    """
    if strategy in sampling.UNCERTAINTY:
        known = [task for task in tasks if task.prelabel.scores]
        if not known:
            raise FailedPrecondition(
                "No open task has a proposal: `aios label prelabel`.", reason="NO_PRELABELS"
            )
        p_NC = [[task.prelabel.scores.get(name, 0.0) for name in classes] for task in known]
        values = sampling.UNCERTAINTY[strategy](p_NC)
        return [
            pb.LabelTaskUpdate(name=task.name, priority=float(value))
            for task, value in zip(known, values, strict=True)
        ]
    if strategy not in STRATEGIES:
        raise InvalidArgument.of("strategy", f"must be one of {', '.join(STRATEGIES)}")
    numbers = _numbers([*tasks, *labelled])
    if not numbers.size:
        raise FailedPrecondition("The open tasks share no column of numbers.", reason="NO_FEATURES")
    x_ND, known_ND = numbers[: len(tasks)], numbers[len(tasks) :]
    if strategy == "k-center":
        chosen = sampling.k_center(x_ND, count, known_ND)
    else:
        chosen = sampling.k_means(x_ND, count, seed)
    order = {index: float(count - rank) for rank, index in enumerate(chosen)}
    return [pb.LabelTaskUpdate(name=task.name, priority=order.get(i, 0.0)) for i, task in enumerate(tasks)]


def _numbers(tasks: Tasks) -> NDArray[np.float64]:
    """The columns of numbers that all items have, each of mean 0 and deviation 1."""
    shared: set[str] | None = None
    for task in tasks:
        mine = {
            name
            for name, value in task.item.data.fields.items()
            if value.WhichOneof("kind") == "number_value"
        }
        shared = mine if shared is None else shared & mine
    names = sorted(shared or ())
    x_ND = np.array([[task.item.data.fields[name].number_value for name in names] for task in tasks], float)
    if not x_ND.size:
        return x_ND
    deviation = x_ND.std(axis=0)
    scaled: NDArray[np.float64] = (x_ND - x_ND.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
    return scaled
