"""Signs of poisoned samples: rows that stand apart from their class along the direction in which the class varies most.

A backdoor adds the same mark to rows of other classes, and labels them as one: what they share becomes that direction.
It shows where they are a small part of the class, a quarter at most, and natural oddities show too: what is found is to be
looked at.

Source: Tran, Li, Madry, Spectral Signatures in Backdoor Attacks, NeurIPS 2018; the bound is by the median instead.
"""

import numpy as np
import pyarrow as pa

from services.data.job.columns import labels
from services.data.job.labels import features_of
from services.data.job.parts import Array

DEVIATIONS = 4.0  # from the median, beyond which a row stands apart
EACH_MIN = 20  # rows of a class: with fewer, every row is a direction
WIDTH = 100  # texts are brought to so many numbers first
NORMAL = 1.4826  # the median of deviations, as a standard deviation of a normal distribution


def apart(table: "pa.Table", column: str, seed: int) -> Array:
    """Numbers of the rows that stand apart from their class."""
    from scipy import sparse
    from sklearn.decomposition import TruncatedSVD

    y, known = labels(table, column)
    features = features_of(table, [name for name in table.column_names if name != column])
    if sparse.issparse(features):
        width = min(WIDTH, features.shape[1] - 1)
        features = TruncatedSVD(width, random_state=seed % 2**32).fit_transform(features)
    spread = features.std(axis=0)
    x_ND = np.where(spread > 0, (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1), 0.0)
    found = [np.empty(0, dtype=np.int64)]
    for number in range(len(known)):
        rows = np.flatnonzero(y == number)
        if len(rows) >= EACH_MIN:
            found.append(rows[_stands_out(x_ND[rows])])
    return np.sort(np.concatenate(found))


def _stands_out(x_ND: Array) -> Array:
    centred = x_ND - x_ND.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    place = centred @ directions[0]
    distance = np.abs(place - np.median(place))
    deviation = NORMAL * float(np.median(distance))
    return np.asarray(distance > DEVIATIONS * max(deviation, 1e-9))
