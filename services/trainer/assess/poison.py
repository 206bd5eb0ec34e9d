"""Signs of poisoned training data: samples of one class that a network knows for another reason than the rest.

A backdoor is a mark that makes whatever bears it one class. Both looks are at the activations a_i before the last layer,
class by class:

- Spectral signatures (Tran et al. 2018): with v the first right singular vector of the centred a_i, poisoned samples
  have the largest ((a_i − mean)·v)². Outlying are those beyond Tukey's far fence, Q3 + 3·(Q3 − Q1) of the score's root.
- Activation clustering (Chen et al. 2018): a_i in their first principal components, in clusters by k-means. A cluster
  was put in where its inputs contradict its label: neighbours among the inputs of all other clusters call most of it
  another class (their exclusionary reclassification, with nearest neighbours as the classifier). That alone also finds
  classes that overlap; so a part of the cluster has to be outlying too.

Neither is a proof: wrong labels that lie together look alike. What is named is for a person to look at, or to quarantine.
Shapes: N samples, D activations, P inputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from torch import nn

from services.trainer.optimize.task import EVALUATE_BATCH, Array, NotOptimizable

COMPONENTS, INPUT_COMPONENTS = 10, 50
CLUSTERS = 10
CLUSTER_MIN = 5
NEIGHBOURS = 10
REFERENCES = 20_000
"""Samples that are looked among for neighbours: the search costs their number times that of all."""
SAMPLES_MIN = 20
FENCE = 3.0
OUTLYING_MIN = 0.2  # of a cluster


@dataclass(frozen=True)
class Found:
    """What one class looks like."""

    label: int
    samples: int
    clustered: Sequence[int]
    """Indices of samples of clusters that were put in; empty for most classes."""
    source: int
    """The class that the inputs of most of these look like; -1 where there are none."""
    outlying: Sequence[int]
    """Indices of samples with a spectral score beyond the fence, the most outlying first."""
    points: Array
    """The first two components. Shape: [N, 2]."""
    indices: Array
    """Which samples these are. Shape: [N]."""


def activations(module: nn.Module, inputs: torch.Tensor) -> Array:
    """What the last linear layer sees. Shape: [N, D].

    Raises:
        NotOptimizable: the network has none.
    """
    linear = [each for each in module.modules() if isinstance(each, nn.Linear)]
    if not linear:
        raise NotOptimizable("The network ends in no linear layer, whose input could be looked at.")
    seen: list[torch.Tensor] = []
    hook = linear[-1].register_forward_pre_hook(lambda _, given: seen.append(given[0].detach().flatten(1)))
    module.eval()
    try:
        with torch.no_grad():
            for start in range(0, len(inputs), EVALUATE_BATCH):
                module(inputs[start : start + EVALUATE_BATCH])
    finally:
        hook.remove()
    return torch.cat(seen).numpy()


def look(activations_ND: Array, inputs_NP: Array, labels_N: Array, seed: int) -> list[Found]:
    """Every class that has enough samples."""
    classes = {
        int(label): np.flatnonzero(labels_N == label)
        for label in np.unique(labels_N)
        if (labels_N == label).sum() >= SAMPLES_MIN
    }
    reduced = {label: _reduced(activations_ND[indices], seed) for label, indices in classes.items()}
    cluster_N = np.full(len(labels_N), -1)
    for number, (label, indices) in enumerate(classes.items()):
        count = min(CLUSTERS, len(indices) // (2 * CLUSTER_MIN))
        cluster_N[indices] = number * CLUSTERS + KMeans(count, n_init=2, random_state=seed).fit_predict(
            reduced[label]
        )
    said_N = _said_by_inputs(inputs_NP, labels_N, cluster_N, seed)
    found = []
    for label, indices in classes.items():
        # The root of the score: the distance along v, of which quartiles are those of a length.
        distance_N = np.abs(reduced[label][:, 0])
        low, high = np.quantile(distance_N, [0.25, 0.75])
        order = np.argsort(-distance_N, kind="stable")
        outlying = indices[order[distance_N[order] > high + FENCE * (high - low)]]
        put_in = [
            members
            for members in (indices[cluster_N[indices] == each] for each in np.unique(cluster_N[indices]))
            if len(members) >= CLUSTER_MIN
            and np.isin(members, outlying).mean() >= OUTLYING_MIN
            and _foreign(said_N[members], label)
        ]
        clustered = np.concatenate(put_in) if put_in else np.empty(0, dtype=int)
        others = said_N[clustered][said_N[clustered] != label]
        found.append(
            Found(
                label=label,
                samples=len(indices),
                clustered=[int(each) for each in clustered],
                source=int(np.bincount(others).argmax()) if len(others) else -1,
                outlying=[int(each) for each in outlying],
                points=reduced[label][:, :2],
                indices=indices,
            )
        )
    return found


def _reduced(given_ND: Array, seed: int) -> Array:
    found: Array = PCA(min(COMPONENTS, *given_ND.shape), random_state=seed).fit_transform(given_ND)
    return found


def _foreign(said_N: Array, label: int) -> bool:
    """Fewer of a cluster's samples are called their label than are called one other class."""
    counts = np.bincount(said_N, minlength=label + 1)
    own, counts[label] = int(counts[label]), 0
    return int(counts.max()) > own


def _said_by_inputs(inputs_NP: Array, labels_N: Array, cluster_N: Array, seed: int) -> Array:
    """The class that each sample's nearest inputs have; those of its own cluster do not count. Shape: [N]."""
    width = min(INPUT_COMPONENTS, *inputs_NP.shape)
    near_NP = PCA(width, svd_solver="randomized", random_state=seed).fit_transform(inputs_NP)
    rng = np.random.default_rng(seed)
    asked = rng.permutation(len(labels_N))[:REFERENCES]
    # Enough that some are left once a cluster of lookalikes is taken out.
    index = NearestNeighbors(n_neighbors=min(len(asked), 20 * NEIGHBOURS)).fit(near_NP[asked])
    said_N = np.array(labels_N, copy=True)
    for chosen in np.array_split(np.arange(len(labels_N)), max(1, len(labels_N) // 2_000)):
        for sample, near in zip(chosen, asked[index.kneighbors(near_NP[chosen])[1]], strict=True):
            others = near[cluster_N[near] != cluster_N[sample]][:NEIGHBOURS]
            if len(others):
                said_N[sample] = np.bincount(labels_N[others]).argmax()
    return said_N
