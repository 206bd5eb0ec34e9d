"""Trees in numbers: what one gets wrong, the others outvote or mend. scikit-learn grows them.

`random_forest` averages trees on resampled rows and random columns (Breiman 2001); `extra_trees` cuts at random too
(Geurts et al. 2006); `gradient_boosting` adds small trees, each fitted to the gradient of the loss so far, on columns
of 256 bins (Friedman 2001; Ke et al. 2017).

Dataset: a table, see `tables`. Model: features FP32 [B, D] → ONNX trees: `probabilities` FP32 [B, C] with the label,
or `variable` FP32 [B, 1] for numbers.
"""

import json

import numpy as np
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn import ensemble

from aios.train import Run
from services.trainer.job import evaluate, loop, outputs, result, tables

KINDS = {
    ("random_forest", True): ensemble.RandomForestClassifier,
    ("random_forest", False): ensemble.RandomForestRegressor,
    ("extra_trees", True): ensemble.ExtraTreesClassifier,
    ("extra_trees", False): ensemble.ExtraTreesRegressor,
    ("gradient_boosting", True): ensemble.HistGradientBoostingClassifier,
    ("gradient_boosting", False): ensemble.HistGradientBoostingRegressor,
}
OPSET = 17  # of ONNX: old enough for every runtime that serves


def train(run: Run) -> None:
    """Grow, evaluate, hand over."""
    settings = loop.prepare(run)
    classes = settings["task"] == "classes"
    train, test = tables.load(run.files(), settings["target"], classes=classes, seed=run.seed)
    run.restore()
    kind = KINDS[settings["kind"], classes]
    depth = settings["depth"] or None
    if settings["kind"] == "gradient_boosting":
        model = kind(
            max_iter=settings["trees"],
            learning_rate=settings["learning_rate"],
            max_depth=depth,
            random_state=run.seed,
        )
    else:
        model = kind(
            n_estimators=settings["trees"], max_depth=depth, random_state=run.seed, n_jobs=settings["threads"]
        )
    with run.phase("train"):
        # Cast here as it will be when served: a cut lies between two values of float32.
        model.fit(train.x_ND.astype(np.float32), train.y_N)
    x = test.x_ND.astype(np.float32)
    title = f"{settings['kind'].replace('_', ' ').capitalize()}, {run.name}"
    if classes:
        evaluation = evaluate.classification(title, model.predict_proba(x), test.y_N, train.classes)
    else:
        evaluation = evaluate.regression(title, model.predict(x), test.y_N)
    with run.phase("export"):
        folder = run.folder("model")
        made = to_onnx(
            model,
            initial_types=[("features", FloatTensorType([None, x.shape[1]]))],
            options={id(model): {"zipmap": False}} if classes else None,
            target_opset=OPSET,
        )
        (folder / outputs.MODEL_FILE).write_bytes(made.SerializeToString())
        (folder / "features.json").write_text(json.dumps(list(train.features)))
        signature = outputs.signature_of(folder)
        signature.labels.extend(train.classes)
    result.hand_over(run, folder, signature, evaluation)
