"""A picture of a table: samples in two dimensions so that near ones stay near (t-SNE, van der Maaten and Hinton 2008).

Samples i and j are as alike as p_ij, Gaussian in their distance with a width that gives each sample `perplexity` neighbours;
their points as q_ij ∝ 1 / (1 + |y_i − y_j|²). The points go down the gradient of Σ p log(p / q). The method is
scikit-learn's (Barnes-Hut). Figure: trustworthiness, how few of a point's five neighbours are no neighbours of its sample
(Venna and Kaski 2001).

Dataset: a table, see `tables`; `target` names a column to leave out, by which the picture is coloured. There is no model: a
new sample has no place in the picture.
"""

import numpy as np
from sklearn.manifold import TSNE, trustworthiness

from aios.errors import InvalidArgument
from aios.train import Run
from services.trainer.job import loop, plots, result, tables
from services.trainer.job.tables import Scaling


def train(run: Run) -> None:
    """Lay out, draw, hand over."""
    settings = loop.prepare(run)
    train_part, _ = tables.load(run.files(), settings["target"], classes=True, seed=run.seed)
    run.restore()
    count = min(settings["samples"], len(train_part.x_ND))
    if settings["perplexity"] >= count:
        raise InvalidArgument.of("hyperparameters.perplexity", f"must be below the {count} samples")
    chosen = np.random.default_rng(run.seed).permutation(len(train_part.x_ND))[:count]
    x_ND = Scaling.of(train_part.x_ND, wanted=settings["standardize"])(train_part.x_ND)[chosen]
    y_N2 = TSNE(perplexity=settings["perplexity"], init="pca", random_state=run.seed).fit_transform(x_ND)
    groups = train_part.y_N[chosen] if len(train_part.y_N) else None
    figures = {"trustworthiness": float(trustworthiness(x_ND, y_N2))}
    picture = plots.points("t-SNE", "first", "second", y_N2[:, 0], y_N2[:, 1], groups)
    evaluation = result.described(f"t-SNE, {run.name}", figures, picture)
    result.hand_over(run, None, None, evaluation, {"points.json": y_N2.tolist()})
