"""`aios predict`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aios.cli import output
from aios.cli.output import common, connected, leaf

if TYPE_CHECKING:
    from aios.client import Client

IMAGES = (".png", ".jpg", ".jpeg", ".webp")


@click.command()
@click.argument("deployment")
@click.option(
    "--input", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True,
    help="An image, or JSON with `instances`, for labelled predictions. A .npy array, or .json: a list, or an object "
    "of lists by input name, for the model's tensors.",
)  # fmt: skip
@common
def predict(deployment: str, file: Path) -> None:
    """Ask a deployment and print its answer."""
    inputs = read_inputs(file)
    with connected() as client:
        if isinstance(inputs, dict) and list(inputs) == ["instances"]:
            _labelled(client, deployment, inputs["instances"])
        else:
            _tensors(client, deployment, inputs)


def _labelled(client: "Client", deployment: str, instances: Any) -> None:
    from google.protobuf.json_format import MessageToDict

    answer = client.predictions.ask(deployment, instances)
    rows = [
        [
            each.label,
            f"{each.probability:.1%}" if each.label else "",
            json.dumps(MessageToDict(each).get("outputs")),
        ]
        for each in answer.predictions
    ]
    output.emit_data(MessageToDict(answer), rows, ["LABEL", "PROBABILITY", "OUTPUTS"])
    output.notice(f"By revision {leaf(answer.revision)}. Its trace: `aios trace {answer.trace_id}`.")


def _tensors(client: "Client", deployment: str, inputs: Any) -> None:
    prediction = client.predict(deployment, inputs)
    outputs = {name: array.tolist() for name, array in prediction.outputs.items()}
    data = {"outputs": outputs, "modelVersion": prediction.model_version, "traceId": prediction.trace_id}
    rows = [
        [name, list(array.shape), str(array.dtype), summary(array)]
        for name, array in prediction.outputs.items()
    ]
    output.emit_data(data, rows, ["OUTPUT", "SHAPE", "TYPE", "VALUES"])
    output.notice(f"Its trace: `aios trace {prediction.trace_id}`.")


def read_inputs(file: Path) -> Any:
    """What a file asks. Never a pickle.

    Raises:
        InvalidArgument: it holds nothing of the kind.
    """
    import numpy as np

    from aios.client.predictions import image
    from aios.errors import InvalidArgument

    try:
        if file.suffix.lower() in IMAGES:
            return {"instances": [image(file.read_bytes())]}
        if file.suffix == ".npy":
            return np.load(file, allow_pickle=False)
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InvalidArgument.of(str(file), f"cannot be read: {error}") from None


def summary(array: Any) -> str:
    """The likeliest classes of a batch of scores, or the first values of anything else."""
    if array.ndim == 2 and array.shape[1] > 1:
        best = array.argmax(axis=1).tolist()
        return "argmax " + " ".join(str(each) for each in best[:20]) + (" ..." if len(best) > 20 else "")
    flat = array.reshape(-1)[:10].tolist()
    return " ".join(f"{value:.4g}" for value in flat) + (" ..." if array.size > 10 else "")
