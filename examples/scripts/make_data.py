"""Handwritten digits that scikit-learn brings, as two tables: 64 columns of pixels and one of labels.

python make_data.py FOLDER
"""

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

digits = load_digits()
rows = np.column_stack([digits.data, digits.target]).astype(int)
columns = ",".join([*(f"pixel{number}" for number in range(64)), "label"])
folder = Path(sys.argv[1])
folder.mkdir(exist_ok=True)
for name, part in (("train", rows[:1400]), ("test", rows[1400:])):
    np.savetxt(folder / f"{name}.csv", part, fmt="%d", delimiter=",", header=columns, comments="")
