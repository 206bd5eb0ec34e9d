"""A scikit-learn script as people have them: reads two tables, prints how good it is, writes what it found."""

import argparse
import json
from pathlib import Path

import joblib
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import classification_report
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

parser = argparse.ArgumentParser()
parser.add_argument("--data", type=Path, default=Path("data"))
parser.add_argument("--out", type=Path, default=Path("out"))
parser.add_argument("--strength", type=float, default=1.0)
args = parser.parse_args()

train, test = (np.loadtxt(args.data / f"{part}.csv", delimiter=",", skiprows=1) for part in ("train", "test"))
model = make_pipeline(StandardScaler(), LogisticRegression(C=args.strength, max_iter=500))
model.fit(train[:, :64], train[:, 64])
found = classification_report(test[:, 64], model.predict(test[:, :64]), output_dict=True)
print(f"accuracy {found['accuracy']:.3f}")
args.out.mkdir(parents=True, exist_ok=True)
(args.out / "report.json").write_text(json.dumps(found, indent=1))
joblib.dump(model, args.out / "model.joblib")
