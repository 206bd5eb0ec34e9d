"""Models in the loop of labelling: probabilities, proposals, what comes first."""

import numpy as np
import pyarrow as pa
import pytest

from aios.client import label_items, label_models
from aios.data.v1 import annotation_pb2
from aios.errors import FailedPrecondition, InvalidArgument


def task(number: int, **data: float) -> annotation_pb2.LabelTask:
    made = annotation_pb2.LabelTask(name=f"projects/p/labelProjects/l/tasks/{number}")
    made.item.data.update(data)
    return made


def test_logits_become_probabilities_and_probabilities_stay() -> None:
    sure = np.array([[0.25, 0.75]])
    assert label_models.probabilities({"p": sure}, 2) == pytest.approx(sure)
    logits = {"other": np.zeros((1, 9)), "logits": np.array([[0.0, np.log(3)]])}
    assert label_models.probabilities(logits, 2) == pytest.approx(sure)
    with pytest.raises(FailedPrecondition, match="2 classes"):
        label_models.probabilities({"other": np.zeros((1, 9))}, 2)


def test_a_proposal_is_the_likeliest_class() -> None:
    update = label_models.proposal(task(1), {"a": 0.2, "b": 0.8}, "m", ["a", "b"])
    assert list(update.prelabel.label.choices) == ["b"]
    assert dict(update.prelabel.scores) == {"a": 0.2, "b": 0.8}
    with pytest.raises(InvalidArgument, match="lacks"):
        label_models.proposal(task(1), {"c": 1.0}, "m", ["a", "b"])


def test_what_is_unlike_all_that_is_labelled_comes_first() -> None:
    free = [task(n, x=float(n), y=0.0) for n in range(10)]
    done = [task(100 + n, x=float(n), y=0.0) for n in range(3)]

    updates = label_models.priorities(free, done, "k-center", 2, [], 0)

    order = sorted(updates, key=lambda update: -update.priority)
    assert [update.name.rpartition("/")[2] for update in order[:2]] == ["9", "5"]
    assert all(update.priority == 0 for update in order[2:])
    with pytest.raises(FailedPrecondition, match="prelabel"):
        label_models.priorities(free, done, "entropy", 2, ["a"], 0)
    with pytest.raises(InvalidArgument):
        label_models.priorities(free, done, "guess", 2, [], 0)


def test_features_are_the_columns_of_numbers_but_the_label() -> None:
    table = pa.table({"b": [1, 2, 3], "text": ["x", "y", "z"], "a": [0.5, 1.5, 2.5], "label": [0, 1, 0]})
    assert label_items.features(table, [2, 0], [], "label").tolist() == [[3, 2.5], [1, 0.5]]
    assert label_items.features(table, [1], ["a", "b"], "label").tolist() == [[1.5, 2]]
    with pytest.raises(InvalidArgument, match="columns of numbers"):
        label_items.features(table, [0], ["nothing"], "label")
