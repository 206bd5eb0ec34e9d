"""What an existing MLflow script does with models and files, and what it sees: nothing here knows AIOS.

Needs all of MLflow, and scikit-learn: `pip install mlflow scikit-learn`.

MLFLOW_TRACKING_URI=http://127.0.0.1:8080 MLFLOW_TRACKING_TOKEN=... python models.py NAME
"""

import json
import sys
import tempfile
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import infer_signature
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression


def main(name: str) -> dict:
    experiment = mlflow.set_experiment(name)
    client = MlflowClient()
    x, y = load_iris(return_X_y=True, as_frame=True)
    model = LogisticRegression(max_iter=500).fit(x, y)
    with mlflow.start_run() as run:
        mlflow.log_input(mlflow.data.from_pandas(x, name="iris"), context="training")
        signature = infer_signature(x, model.predict(x))
        logged = mlflow.sklearn.log_model(
            model, name="model", signature=signature, registered_model_name=name
        )
        mlflow.log_metric("accuracy", model.score(x, y), model_id=logged.model_id)
        mlflow.log_dict({"a": 1}, "more/d.json")
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "a b.txt").write_text("hello")
            mlflow.log_artifacts(folder, "files")
    client.set_registered_model_alias(name, "champion", "1")
    client.set_model_version_tag(name, "1", "checked", "yes")
    copied = client.copy_model_version(f"models:/{name}@champion", f"{name}-copy")
    try:
        client.delete_model_version(name, "1")
        refused = ""
    except MlflowException as error:
        refused = error.error_code
    loaded = [
        mlflow.pyfunc.load_model(uri).predict(x)
        for uri in (f"models:/{name}@champion", f"models:/{copied.name}/1", logged.model_uri)
    ]
    renamed = client.rename_registered_model(copied.name, f"{name}-renamed")
    last = client.create_registered_model(f"{name}-last")
    client.delete_registered_model(last.name)
    run_id, ids = run.info.run_id, [experiment.experiment_id]
    found = client.get_run(run_id)
    return {
        "run": run_id,
        "same": all((each == model.predict(x)).all() for each in loaded),
        "files": sorted(each.path for each in client.list_artifacts(run_id)),
        "text": Path(
            mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="files/a b.txt")
        ).read_text(),
        "dict": mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/more/d.json"),
        "inputs": [each.dataset.name for each in found.inputs.dataset_inputs],
        "outputs": [each.model_id for each in found.outputs.model_outputs] == [logged.model_id],
        "logged": [
            each.name
            for each in mlflow.search_logged_models(ids, "metrics.accuracy > 0.9", output_format="list")
        ],
        "registered": [each.name for each in client.search_registered_models(f"name = '{name}'")],
        "versions": [each.version for each in client.search_model_versions(f"name = '{name}'")],
        "tags": client.get_model_version(name, "1").tags,
        "refused": refused,
        "renamed": client.get_registered_model(renamed.name).name,
        "deleted": not client.search_registered_models(f"name = '{last.name}'"),
    }


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: models.py NAME")
    print(json.dumps(main(sys.argv[1])))
