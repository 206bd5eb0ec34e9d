"""DBSCAN: clusters are regions in which samples lie close; what lies apart is noise (Ester et al. 1996).

A sample with at least `neighbours` samples (itself counted) within distance ε is a core. Cores within ε of each other
are one cluster, and a sample within ε of a core is at its border. The number of clusters is found, not given.

Dataset: a table, see `tables`; `target` names a column to leave out. It learns nothing that can be asked about other
samples, so no model is made: the clusters of the training part are in the outputs, `clusters.csv`.
"""

import numpy as np

from aios.errors import InvalidArgument
from aios.train import Run
from services.trainer.job import loop, plots, result, tables
from services.trainer.job.tables import Array, Scaling
from services.trainer.recipes.kmeans import squared_distances
from services.trainer.recipes.pca import project

NOISE = -1
ROWS_AT_ONCE = 500  # of the matrix of distances, which is never there whole


def train(run: Run) -> None:
    """Cluster, describe, hand over."""
    settings = loop.prepare(run)
    if run.spec.model:
        raise InvalidArgument.of("model", "DBSCAN makes no model to register: leave `model` out of run.yaml")
    train, _ = tables.load(run.files(), settings["target"], classes=True, seed=run.seed)
    run.restore()
    x = Scaling.of(train.x_ND, wanted=settings["standardize"])(train.x_ND)
    with run.phase("train"):
        groups_N = cluster(x, settings["distance"], settings["neighbours"])
    sizes = np.bincount(groups_N[groups_N != NOISE]) if (groups_N != NOISE).any() else np.empty(0)
    figures = {"clusters": float(len(sizes)), "noise": float((groups_N == NOISE).mean())}
    shown = project(x, 2)
    evaluation = result.described(
        f"DBSCAN, {run.name}",
        figures,
        plots.points("Clusters; noise is grey", "first", "second", shown[:, 0], shown[:, 1], groups_N),
    )
    outputs = evaluation.write(run.folder("outputs"))
    np.savetxt(outputs / "clusters.csv", groups_N, fmt="%d", header="cluster", comments="")
    run.complete(metrics=figures, outputs=outputs)
    print(f"{len(sizes)} clusters, {figures['noise']:.1%} noise", flush=True)


def cluster(x_ND: Array, distance: float, neighbours: int) -> Array:
    """The cluster of each sample, numbered from 0 in the order of their first cores; NOISE for none."""
    near: list[Array] = []
    for start in range(0, len(x_ND), ROWS_AT_ONCE):
        within = squared_distances(x_ND[start : start + ROWS_AT_ONCE], x_ND) <= distance**2
        near += [np.flatnonzero(row) for row in within]
    core_N = np.array([len(each) >= neighbours for each in near])
    groups_N = np.full(len(x_ND), NOISE)
    count = 0
    for first in np.flatnonzero(core_N):
        if groups_N[first] != NOISE:
            continue
        groups_N[first] = count
        look_at = [int(first)]
        while look_at:
            new = near[look_at.pop()]
            new = new[groups_N[new] == NOISE]
            groups_N[new] = count
            look_at += [int(each) for each in new if core_N[each]]
        count += 1
    return groups_N
