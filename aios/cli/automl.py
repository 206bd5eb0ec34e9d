"""`aios automl`: a search over families of models, and an ensemble of what it found."""

import json
import tempfile
from pathlib import Path
from typing import Any

import click

from aios.cli import output
from aios.cli.job import PLATFORM_FAILED
from aios.cli.output import common, connected, figure, leaf
from aios.cli.sweep import follow

SEARCH_SHARE = 0.8  # of the time; the rest is for the ensemble
LEADERBOARD = "leaderboard.json"
RESOURCES = {"cpu": 1, "memory": "2Gi"}
SPACE: dict[str, Any] = {
    "family": ["linear", "random_forest", "gradient_boosting", "extra_trees", "nearest", "mlp"],
    "strength": {"low": 0.001, "high": 1000.0, "log": True, "when": {"family": ["linear"]}},
    "neighbours": {"low": 1, "high": 50, "log": True, "when": {"family": ["nearest"]}},
    "trees": {
        "low": 50,
        "high": 400,
        "log": True,
        "when": {"family": ["random_forest", "extra_trees", "gradient_boosting"]},
    },
    "leaf": {
        "low": 1,
        "high": 30,
        "log": True,
        "when": {"family": ["random_forest", "extra_trees", "gradient_boosting"]},
    },
    "learning_rate": {"low": 0.01, "high": 0.3, "log": True, "when": {"family": ["gradient_boosting"]}},
    "layers": {"low": 1, "high": 3, "when": {"family": ["mlp"]}},
    "width": {"low": 16, "high": 256, "log": True, "when": {"family": ["mlp"]}},
    "decay": {"low": 0.000001, "high": 0.1, "log": True, "when": {"family": ["mlp"]}},
}
FIRST = [
    {"family": "linear", "strength": 1.0},
    {"family": "random_forest", "trees": 100, "leaf": 1},
    {"family": "gradient_boosting", "trees": 100, "leaf": 20, "learning_rate": 0.1},
    {"family": "extra_trees", "trees": 100, "leaf": 1},
    {"family": "nearest", "neighbours": 5},
    {"family": "mlp", "layers": 1, "width": 64, "decay": 0.0001},
]
"""One of each family, with settings that are good for most: then the search begins."""
_NETWORKS = {"family": ["lstm", "transformer"]}
TEXT_SPACE: dict[str, Any] = {
    "family": ["tfidf_linear", "tfidf_bayes", "lstm", "transformer"],
    "strength": {"low": 0.1, "high": 1000.0, "log": True, "when": {"family": ["tfidf_linear"]}},
    "smoothing": {"low": 0.001, "high": 1.0, "log": True, "when": {"family": ["tfidf_bayes"]}},
    "epochs": {"low": 2, "high": 10, "when": _NETWORKS},
    "width": {"low": 32, "high": 128, "log": True, "when": _NETWORKS},
    "learning_rate": {"low": 0.0005, "high": 0.01, "log": True, "when": _NETWORKS},
    "dropout": {"low": 0.0, "high": 0.5, "when": _NETWORKS},
    "layers": {"low": 1, "high": 3, "when": {"family": ["transformer"]}},
}
TEXT_FIRST = [
    {"family": "tfidf_linear", "strength": 10.0},
    {"family": "tfidf_bayes", "smoothing": 0.05},
    {"family": "lstm", "epochs": 4, "width": 96, "learning_rate": 0.002, "dropout": 0.3},
    {"family": "transformer", "epochs": 4, "width": 96, "learning_rate": 0.002, "dropout": 0.3, "layers": 2},
]


@click.command()
@click.argument("dataset")
@click.option("--target", default="", help="The column to learn; the last one where none is named.")
@click.option("--budget", default="10m", show_default=True, help="Time for all of it: 90s, 10m, 2h.")
@click.option("--trials", type=int, default=200, show_default=True, help="Candidates at most.")
@click.option("--model", default="", help="Model to register the winner under.")
@click.option(
    "--task",
    type=click.Choice(["auto", "classes", "numbers"]),
    default="auto",
    help="What the target is; by its values where nothing is said.",
)
@click.option("--text", "texts", is_flag=True, help="The dataset is texts and their labels: two columns.")
@click.option("--folds", default=5, show_default=True, help="Of the cross-validation.")
@click.option("--parallelism", default=2, show_default=True, help="Candidates at once.")
@click.option("--name", default="", help="Of the search: a sweep. One is made up where none is given.")
@common
def automl(
    dataset: str,
    target: str,
    budget: str,
    trials: int,
    model: str,
    task: str,
    texts: bool,
    folds: int,
    parallelism: int,
    name: str,
) -> int:
    """Find a good model for a table, images or texts of a DATASET: candidates of many families as jobs, each judged by
    cross-validation of the training part, then an ensemble and a stack of the best, measured on the held-out part beside baselines.
    """
    from aios.client.runspec import span

    searched = span(budget, "--budget") * SEARCH_SHARE
    space, first = (TEXT_SPACE, TEXT_FIRST) if texts else (SPACE, FIRST)
    common_settings = {"target": target, "task": task}
    spec = {
        "name": name,
        "run": {
            "recipe": "candidate",
            "dataset": dataset,
            "hyperparameters": {**common_settings, "folds": folds},
            "resources": RESOURCES,
        },
        "space": space,
        "first": first,
        "metric": "cv_score",
        "sampler": {"kind": "tpe", "startup": len(first) + 4},
        "parallelism": parallelism,
        "budget": {"trials": trials, "time": f"{searched.total_seconds():.0f}s"},
        "last": {
            "recipe": "ensemble",
            "dataset": dataset,
            "hyperparameters": common_settings,
            "model": model,
            "resources": RESOURCES,
        },
        "description": "AutoML",
    }
    with connected() as client:
        made = client.sweeps.create(spec)
        output.notice(f"Made sweep {leaf(made.name)}; its candidates are jobs. Ctrl-C leaves it running.")
        with_code = follow(client, made.name, quiet=True)
        if with_code != 0:
            output.emit(
                client.sweeps.get(made.name), {"STATE": output.state, "WHY": lambda s: s.state_message}
            )
            return with_code
        sweep = client.sweeps.get(made.name)
        if not sweep.last_run:
            return PLATFORM_FAILED
        run = client.runs.get(sweep.last_run)
        show(client, run)
    return 0


def show(client: Any, run: Any) -> None:
    """The leaderboard of a finished search."""
    with tempfile.TemporaryDirectory(prefix="aios-automl-") as folder:
        paths = client.datasets.pull(run.outputs, folder)
        board = next(Path(path) for path in paths if Path(path).name == LEADERBOARD)
        entries = json.loads(board.read_text())
    rows = [
        [
            entry["name"],
            "chosen" if entry["chosen"] else "",
            figure(entry["cv_score"]),
            "" if entry["test_score"] is None else figure(entry["test_score"]),
        ]
        for entry in entries
    ]
    output.emit_data(
        {"leaderboard": entries, "run": run.name, "modelVersion": run.model_version},
        rows,
        ["MODEL", "", "CROSS-VALIDATED", "HELD OUT"],
    )
    if run.model_version:
        output.notice(f"Registered {output.short(run.model_version)}: serve it with `aios deploy`.")
    else:
        output.notice("Nothing is registered: name a --model for that.")
