"""Several opinions of one item made into one label."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from aios.labels.values import Kind, Label, similarity_of

ROUNDS_MAX = 100
CHANGE_MIN = 1e-7
SMOOTHING = 0.01  # answers that nobody gave, so that no mistake is impossible
TRUST = 1.0  # right answers that nobody gave: without other evidence, people are believed


@dataclass(frozen=True)
class Consensus:
    """One label, and how much speaks for it, 0 to 1."""

    label: Label
    confidence: float


@dataclass(frozen=True)
class DawidSkene:
    """What the model makes of all opinions."""

    probabilities: Mapping[int, NDArray[np.float64]]
    """Of the classes, by item."""
    accuracy: Mapping[str, float]
    """How often each annotator is right, as the model has it."""


def agreement(kind: Kind, labels: Sequence[Label]) -> float:
    """Mean likeness of two of them; 1 where there is only one."""
    likeness = similarity_of(kind)
    pairs = [likeness(a, b) for a, b in combinations(labels, 2)]
    return sum(pairs) / len(pairs) if pairs else 1.0


def majority(kind: Kind, labels: Sequence[Label]) -> Consensus:
    """What most say, class by class; of marks in places, the label that is nearest to all others. Of equals, the first.

    Confidence is the share that says so, of marks the mean likeness to the others.
    """
    if kind is Kind.CLASSIFICATION:
        counts = Counter(label.choices[0] for label in labels)
        winner, votes = max(counts.items(), key=lambda each: each[1])
        return Consensus(Label(choices=(winner,)), votes / len(labels))
    if kind is Kind.MULTI_LABEL:
        counts = Counter(choice for label in labels for choice in label.choices)
        chosen = tuple(sorted(name for name, votes in counts.items() if 2 * votes > len(labels)))
        shares = [max(votes, len(labels) - votes) / len(labels) for votes in counts.values()]
        return Consensus(Label(choices=chosen), min(shares, default=1.0))
    if len(labels) == 1:
        return Consensus(labels[0], 1.0)
    likeness = similarity_of(kind)
    means = [
        sum(likeness(label, other) for j, other in enumerate(labels) if j != i) / (len(labels) - 1)
        for i, label in enumerate(labels)
    ]
    best = max(range(len(labels)), key=lambda index: means[index])
    return Consensus(labels[best], means[best])


def dawid_skene(votes: Mapping[int, Mapping[str, int]], classes: int) -> DawidSkene:
    """Expectation-maximisation over items' classes and each annotator's table of mistakes.

    Source: Dawid, Skene: Maximum Likelihood Estimation of Observer Error-Rates Using the EM Algorithm, 1979.

    Args:
        votes: By item and annotator, the class that was said.
    """
    items = sorted(item for item, said in votes.items() if said)
    people = sorted({name for item in items for name in votes[item]})
    at_item = {item: index for index, item in enumerate(items)}
    at_person = {name: index for index, name in enumerate(people)}
    triples = np.array(
        [(at_item[item], at_person[name], said) for item in items for name, said in votes[item].items()], int
    ).reshape(-1, 3)
    item_V, person_V, said_V = triples.T
    truth_IC = np.zeros((len(items), classes))
    np.add.at(truth_IC, (item_V, said_V), 1.0)
    truth_IC /= np.maximum(truth_IC.sum(axis=1, keepdims=True), 1.0)
    mistakes_PCC = np.zeros((len(people), classes, classes))
    for _ in range(ROUNDS_MAX if len(items) else 0):
        mistakes_PCC = np.tile(
            np.full((classes, classes), SMOOTHING) + TRUST * np.eye(classes), (len(people), 1, 1)
        )
        np.add.at(mistakes_PCC.transpose(0, 2, 1), (person_V, said_V), truth_IC[item_V])
        mistakes_PCC /= mistakes_PCC.sum(axis=2, keepdims=True)
        prior_C = (truth_IC.sum(axis=0) + SMOOTHING) / (len(items) + SMOOTHING * classes)
        log_IC = np.tile(np.log(prior_C), (len(items), 1))
        np.add.at(log_IC, item_V, np.log(mistakes_PCC[person_V, :, said_V]))
        log_IC -= log_IC.max(axis=1, keepdims=True)
        fresh_IC = np.exp(log_IC)
        fresh_IC /= fresh_IC.sum(axis=1, keepdims=True)
        change = np.abs(fresh_IC - truth_IC).max()
        truth_IC = fresh_IC
        if change < CHANGE_MIN:
            break
    shares_C = truth_IC.mean(axis=0) if len(items) else np.zeros(classes)
    right_P = (np.diagonal(mistakes_PCC, axis1=1, axis2=2) * shares_C).sum(axis=1)
    return DawidSkene(
        {item: truth_IC[index] for item, index in at_item.items()},
        {name: float(right_P[index]) for name, index in at_person.items()},
    )


def resolver(
    kind: Kind, classes: Sequence[str], answers: Mapping[int, Mapping[str, Label]]
) -> Callable[[int], Consensus]:
    """Consensus by Dawid and Skene, of several classes one by one. The estimate is made once, over all answers.

    Args:
        answers: By item and annotator.
    """
    if kind is Kind.CLASSIFICATION:
        index = {name: number for number, name in enumerate(classes)}
        found = dawid_skene(
            {
                item: {who: index[label.choices[0]] for who, label in said.items()}
                for item, said in answers.items()
            },
            len(classes),
        )

        def one(item: int) -> Consensus:
            best = int(found.probabilities[item].argmax())
            return Consensus(Label(choices=(classes[best],)), float(found.probabilities[item][best]))

        return one
    each = {
        name: dawid_skene(
            {
                item: {who: int(name in label.choices) for who, label in said.items()}
                for item, said in answers.items()
            },
            2,
        )
        for name in classes
    }

    def many(item: int) -> Consensus:
        yes = {name: float(result.probabilities[item][1]) for name, result in each.items()}
        chosen = tuple(sorted(name for name, share in yes.items() if share > 0.5))
        return Consensus(Label(choices=chosen), min((max(p, 1 - p) for p in yes.values()), default=1.0))

    return many
