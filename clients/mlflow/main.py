"""What an existing MLflow script does, and what it sees: nothing here knows AIOS.

MLFLOW_TRACKING_URI=http://127.0.0.1:8080 MLFLOW_TRACKING_TOKEN=... python main.py EXPERIMENT
"""

import json
import math
import sys

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException


def main(name: str) -> dict:
    experiment = mlflow.set_experiment(name)
    with mlflow.start_run(run_name="cnn") as run:
        mlflow.log_params({"lr": 0.1, "layers": 3})
        for step in range(10):
            mlflow.log_metric("loss", math.exp(-step), step=step)
        mlflow.log_metrics({"accuracy": 0.9, "f1": 0.8}, step=9)
        mlflow.set_tags({"team": "vision"})
    try:
        with mlflow.start_run(run_name="broken"):
            mlflow.log_param("lr", 0.2)
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass

    client = MlflowClient()
    found = client.get_run(run.info.run_id)
    ids = [experiment.experiment_id]
    try:
        client.log_param(run.info.run_id, "lr", 0.3)
        refused = ""
    except MlflowException as error:
        refused = error.error_code
    seen = {
        "version": mlflow.__version__,
        "run": run.info.run_id,
        "status": found.info.status,
        "metrics": found.data.metrics,
        "params": found.data.params,
        "curve": len(client.get_metric_history(run.info.run_id, "loss")),
        "best": [
            each.info.run_name
            for each in client.search_runs(ids, "metrics.accuracy > 0.5", order_by=["metrics.f1 DESC"])
        ],
        "failed": [each.info.run_name for each in client.search_runs(ids, "attributes.status = 'FAILED'")],
        "frame": sorted(each.name for each in client.search_experiments(filter_string=f"name = '{name}'")),
        "missing": client.get_experiment_by_name("no such experiment"),
        "refused": refused,
    }
    client.delete_run(run.info.run_id)
    seen["left"] = [each.info.run_name for each in client.search_runs(ids)]
    client.restore_run(run.info.run_id)
    return seen


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: main.py EXPERIMENT")
    print(json.dumps(main(sys.argv[1])))
