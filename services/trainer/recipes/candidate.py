"""One candidate of an AutoML search: a model of one family, tried by cross-validation.

The training part is cut into folds; each is guessed by a model that learnt from the others. `cv_score` is reported
after each fold, over all that were guessed so far: accuracy, or R² for numbers. The guesses are what the ensemble is
chosen from, so they are kept: `predictions.npz`. Nothing is exported here: `ensemble` fits what was chosen once more.

Families: `linear` (logistic regression or ridge), `nearest` (neighbours, by distance), `random_forest`, `extra_trees`,
`gradient_boosting`, `mlp`; and for texts `tfidf_linear`, `tfidf_bayes`, `lstm`, `transformer`. Dataset: a table, see `tables`,
images, whose pixels are the features, or a table of one column of texts and one of labels. Model: none.
"""

import json

import numpy as np

from aios.train import Run
from services.trainer.job import candidates


def train(run: Run) -> None:
    """Try, hand over the guesses."""
    settings = run.hparams
    samples = candidates.load(run.files(), settings["target"], settings["task"], run.seed)
    candidates.check(settings["family"], samples)
    run.restore()
    y, classes = samples.train.y_N, samples.classes
    guessed = np.zeros((len(y), max(1, classes)))
    known = np.zeros(len(y), dtype=bool)
    with run.phase("train", settings["folds"]):
        for fold, (learn, tried) in enumerate(candidates.folds(samples, settings["folds"], run.seed), 1):
            model = candidates.make(settings, classes=bool(classes), seed=run.seed)
            candidates.fit(model, samples.train.x_ND[learn], y[learn])
            guessed[tried] = candidates.predict(model, samples.train.x_ND[tried], classes)
            known[tried] = True
            run.report(
                fold,
                cv_score=candidates.score(guessed[known], y[known], classes),
                cv_loss=candidates.loss(guessed[known], y[known], classes),
            )
            if run.should_stop():
                run.leave()
    folder = run.folder("outputs")
    np.savez_compressed(folder / candidates.PREDICTIONS, guessed=guessed.astype(np.float32))
    (folder / candidates.DESCRIPTION).write_text(json.dumps(dict(settings), indent=1))
    print(f"{settings['family']}: cv_score {candidates.score(guessed, y, classes):.4f}", flush=True)
    run.complete(outputs=folder)
