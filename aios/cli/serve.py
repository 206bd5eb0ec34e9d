"""`aios deploy`, `aios deployment` and `aios predict`."""

import json
from pathlib import Path
from typing import Any

import click

from aios.cli import output
from aios.cli.output import Columns, Noun, age, common, connected, leaf, short, state
from aios.cli.progress import Bar

DEPLOYMENT: Columns = {
    "NAME": lambda d: leaf(d.name),
    "STATE": state,
    "MODEL": lambda d: short(d.spec.model_version),
    "LIVE": lambda d: leaf(d.live_revision),
    "LATEST": lambda d: leaf(d.latest_revision),
    "REPLICAS": lambda d: d.spec.replicas or 1,
    "WHY": lambda d: d.state_message,
    "AGE": lambda d: age(d.create_time),
}
REVISION: Columns = {
    "REVISION": lambda r: leaf(r.name),
    "STATE": state,
    "MODEL": lambda r: short(r.spec.model_version),
    "LIVE SINCE": lambda r: stamp(r.live_time),
    "UNTIL": lambda r: stamp(r.retire_time),
    "REPLICAS": lambda r: " ".join(f"{leaf(each.job)}:{state(each)}" for each in r.replicas),
    "WHY": lambda r: r.state_message,
}
FIRST = "No deployments yet: `aios deploy MODEL/VERSION --name NAME` makes one."


@click.command()
@click.argument("model_version")
@click.option("--name", required=True, help="What clients call it.")
@click.option("--replicas", default=0, help="How many servers; 1 where not given.")
@click.option("--batch-delay", default=0, metavar="MICROSECONDS", help="Longest wait to fill a batch.")
@click.option("--wait", is_flag=True, help="Return when it answers.")
@common
def deploy(model_version: str, name: str, replicas: int, batch_delay: int, wait: bool) -> None:
    """Serve MODEL_VERSION (digits/3, digits/@champion) under a name.

    A name that is in use is updated: the new revision takes over once it answers.
    """
    with connected() as client, Bar() as bar:
        made = client.deployments.deploy(
            model_version,
            name,
            replicas=replicas,
            batch_delay_micros=batch_delay,
            wait=wait,
            progress=lambda d: bar.update(f"{leaf(d.name)} {state(d)}", detail=d.state_message),
        )
    output.emit(made, DEPLOYMENT)


@click.group(cls=Noun)
def deployment() -> None:
    """Deployments: models behind stable names."""


@deployment.command("list")
@common
def list_() -> None:
    """The project's deployments."""
    with connected() as client:
        output.emit_list(client.deployments.list(), DEPLOYMENT, none=FIRST)


@deployment.command()
@click.argument("name")
@common
def get(name: str) -> None:
    """One deployment."""
    with connected() as client:
        output.emit(client.deployments.get(name), DEPLOYMENT)


@deployment.command()
@click.argument("name")
@common
def history(name: str) -> None:
    """The revisions of a deployment: what was live when."""
    with connected() as client:
        output.emit_list(client.deployments.history(name), REVISION, none="No revision yet.")


@deployment.command()
@click.argument("name")
@common
def delete(name: str) -> None:
    """Take a deployment down: routes first, then its servers."""
    with connected() as client:
        client.deployments.delete(name)
    output.notice(f"{name} is being taken down.")


@click.command()
@click.argument("deployment")
@click.option(
    "--input", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True,
    help="A .npy array, or .json: a list, or an object of lists by input name.",
)  # fmt: skip
@common
def predict(deployment: str, file: Path) -> None:
    """Ask a deployment and print its outputs."""
    inputs = read_inputs(file)
    with connected() as client:
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
    """Arrays from a file. Never a pickle.

    Raises:
        InvalidArgument: it holds no numbers.
    """
    import numpy as np

    from aios.errors import InvalidArgument

    try:
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


def stamp(time: Any) -> str:
    """A Timestamp, in UTC."""
    return time.ToDatetime().strftime("%Y-%m-%d %H:%M:%S") if time.seconds else ""
