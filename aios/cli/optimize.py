"""`aios optimize`: a model version made smaller or faster, with a verdict measured through Triton."""

import json
import tempfile
from pathlib import Path
from typing import Any

import click

from aios.cli import output
from aios.cli.output import common, connected, short
from aios.cli.run import announced, follow, load

VERDICT = "verdict.json"
REJECTED = 1
"""Exit code of --wait when the variant missed a limit."""


@click.command()
@click.argument("model_version")
@click.option(
    "-f",
    "--file",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="optimize.yaml",
)
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Replace a value: limits.points_lost=0.3"
)
@click.option("--name", help="The run's name; one is made up where none is given.")
@click.option("--dataset", help="What it is judged on; what the version was trained on otherwise.")
@click.option("--model", help="Model to register the result under; NAME-optimized otherwise.")
@click.option("--wait", is_flag=True, help="Follow it to its end and show the verdict; exit code 1 on FAIL.")
@common
def optimize(
    model_version: str, file: Path, assignments: tuple[str, ...], wait: bool, **simple: str | None
) -> int | None:
    """Make a model version smaller or faster: aios optimize digits/3 -f optimize.yaml

    What comes of it is registered with its lineage. It is served by Triton beside the original and measured there; one
    that got slower, or lost more than the file allows, is registered as rejected: no alias can name it.
    """
    plan = load(file, assignments, {key: value for key, value in simple.items() if value})
    with connected() as client:
        made = client.runs.optimize(model_version, plan)
        if not announced(made, wait):
            return None
        if code := follow(client, made.name, quiet=True):
            return code
        ended = client.runs.get(made.name)
        verdict = _verdict(client, ended)
    rows = [*verdict["rows"], ["verdict", "", verdict["said"]], ["version", "", short(ended.model_version)]]
    data = {**verdict, "run": ended.name, "modelVersion": ended.model_version}
    output.emit_data(data, rows, ["", "ORIGINAL", "VARIANT"])
    return None if verdict["passed"] else REJECTED


def _verdict(client: Any, run: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        client.datasets.pull(run.outputs, folder)
        found: dict[str, Any] = json.loads(Path(folder, VERDICT).read_text())
        return found
