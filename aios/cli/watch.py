"""`aios explain prediction` and `aios explain list`: why a model gave an answer."""

from pathlib import Path

import click

from aios.cli import output
from aios.cli.output import Columns, common, connected, leaf, short, state

METHODS = ("integrated-gradients", "occlusion", "shapley")
EXPLANATION: Columns = {
    "NAME": lambda e: leaf(e.name),
    "STATE": state,
    "PREDICTION": lambda e: e.trace_id or e.request_id,
    "REVISION": lambda e: leaf(e.revision),
    "VERSION": lambda e: short(e.version),
    "WHY": lambda e: e.state_message,
}


@click.command("prediction")
@click.argument("deployment")
@click.argument("prediction")
@click.option("--instance", default=0, help="Which instance of the request, from 0.")
@click.option("--method", type=click.Choice(METHODS), help="What fits where not given.")
@click.option("--target", default="", help="The label, or the output's index; the likeliest otherwise.")
@click.option(
    "--to",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Folder for the report; explanation-NAME where not given.",
)
@common
def explain_prediction(
    deployment: str, prediction: str, instance: int, method: str | None, target: str, to: Path | None
) -> int | None:
    """Why DEPLOYMENT gave the answer of PREDICTION, a trace id or the request's own id.

    The kept input is given to the same revision's model again, in a job, and what mattered of it becomes a page.

    \b
      aios explain prediction digits 7e00c1d9a85e3f1b5d2c4a6978f0e1d2
      aios explain prediction digits 7e00c1d9a85e3f1b5d2c4a6978f0e1d2 --method shapley --target 3
    """
    from aios.inference.v1.monitoring_pb2 import Explanation

    with connected() as client:
        made = client.monitoring.explain(
            deployment, prediction, instance=instance, method=method or "", target=target
        )
        output.notice(f"{leaf(made.name)} is worked out by the job {leaf(made.job)}.")
        found = client.monitoring.explanation(made.name, wait=True)
        folder = to or Path(f"explanation-{leaf(found.name)}")
        if found.state == Explanation.STATE_SUCCEEDED:
            client.datasets.pull(found.version, folder)
    output.emit(found, EXPLANATION)
    if found.state != Explanation.STATE_SUCCEEDED:
        return 1
    output.notice(f"Look at {folder / 'report.html'}.")
    return None


@click.command("list")
@click.argument("deployment")
@common
def list_explanations(deployment: str) -> None:
    """The explanations of a deployment's predictions, newest first."""
    with connected() as client:
        output.emit_list(client.monitoring.explanations(deployment), EXPLANATION, none="None yet.")
