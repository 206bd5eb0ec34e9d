"""`aios feedback`, `aios explain prediction` and `aios drift`: what deployments do in production."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aios.cli import output
from aios.cli.output import common, connected

if TYPE_CHECKING:
    from aios.inference.v1 import monitoring_pb2

TRACE_DIGITS = 32


@click.command()
@click.argument("deployment")
@click.argument("prediction", required=False)
@click.argument("truth", required=False)
@click.option("--instance", default=0, help="Which instance of the request, from 0.")
@click.option(
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON lines: trace_id or request_id, truth, and instance where it is not 0.",
)
@common
def feedback(
    deployment: str, prediction: str | None, truth: str | None, instance: int, file: Path | None
) -> None:
    """Say that TRUTH is what DEPLOYMENT should have answered: PREDICTION is a trace id or the request's own id.

    \b
      aios feedback web 7e00c1d9a85e3f1b5d2c4a6978f0e1d2 7
      aios feedback web --file truths.jsonl
    """
    if (file is None) == (prediction is None or truth is None):
        raise click.UsageError("Say PREDICTION and TRUTH, or --file.")
    said = list(_read(file)) if file else [_feedback(prediction or "", truth or "", instance)]
    with connected() as client:
        taken = client.monitoring.feedback(deployment, said)
    output.emit_data({"accepted": taken}, [("accepted", taken)])


def _feedback(prediction: str, truth: Any, instance: int) -> "monitoring_pb2.Feedback":
    from aios.inference.v1 import monitoring_pb2

    by_trace = len(prediction) == TRACE_DIGITS and not set(prediction) - set("0123456789abcdef")
    made = monitoring_pb2.Feedback(instance=instance)
    if by_trace:
        made.trace_id = prediction
    else:
        made.request_id = prediction
    if isinstance(truth, bool):
        made.truth.bool_value = truth
    elif isinstance(truth, int | float):
        made.truth.number_value = truth
    else:
        made.truth.string_value = str(truth)
    return made


def _read(file: Path) -> Iterator["monitoring_pb2.Feedback"]:
    for number, line in enumerate(file.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            said = json.loads(line)
            key = said.get("trace_id") or said["request_id"]
            yield _feedback(str(key), said["truth"], int(said.get("instance", 0)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise click.UsageError(
                f'{file}:{number} must look like {{"trace_id": "...", "truth": "7"}}: {error}'
            ) from None
