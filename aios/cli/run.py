"""`aios run`: submit, list, get, logs, watch, metrics, cancel."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from aios.cli import output
from aios.cli.job import INTERRUPTED, PLATFORM_FAILED, write
from aios.cli.output import Columns, Noun, age, common, connected, figure, leaf, short, state
from aios.cli.progress import Bar


def done(run: Any) -> str:
    """How far a run is."""
    progress = run.progress
    if progress.total_steps:
        return f"{progress.step}/{progress.total_steps}"
    return str(progress.step or "")


RUN: Columns = {
    "NAME": lambda r: leaf(r.name),
    "STATE": state,
    "TRAINS": lambda r: r.spec.recipe or shlex.join(r.spec.command),
    "STEP": done,
    "METRICS": lambda r: metrics_line(r.metrics),
    "MODEL": lambda r: short(r.model_version),
    "AGE": lambda r: age(r.create_time),
    "WHY": lambda r: "" if state(r) == "succeeded" else r.state_message or r.state_reason,
}
DETAILS: Columns = {
    **RUN,
    "DATASET": lambda r: short(r.spec.dataset),
    "CODE": lambda r: short(r.spec.code),
    "OUTPUTS": lambda r: short(r.outputs),
    "JOB": lambda r: short(r.job),
    "TRACE": lambda r: r.trace_id,
    "EXIT CODE": lambda r: r.exit_code if r.HasField("exit_code") else "",
    "CREATOR": lambda r: r.creator,
}
POINT: Columns = {"STEP": lambda p: p.step, "KEY": lambda p: p.key, "VALUE": lambda p: figure(p.value)}
FIRST = "No runs yet: `aios run submit -f run.yaml` makes one."


@click.group(cls=Noun)
def run() -> None:
    """Training runs."""


@run.command()
@click.option(
    "-f",
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="run.yaml",
)
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Replace a value: hyperparameters.lr=0.1"
)
@click.option("--name", help="The run's name; one is made up where none is given.")
@click.option("--dataset", help="Dataset that it reads: digits, or digits/VERSION.")
@click.option("--model", help="Model to register what it makes under.")
@click.option("--requirements", metavar="FILE", help="Lock of the command's own packages, in its folder.")
@click.option(
    "--wheel",
    type=click.Path(path_type=Path),
    help="Send a Python wheel as its code, in place of this folder.",
)
@click.option("--ref", help="Send this commit, tag or branch of the code, whatever lies in the folder now.")
@click.option("--wait", is_flag=True, help="Follow it to its end, and end with its exit code.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@common
def submit(
    file: Path | None,
    assignments: tuple[str, ...],
    wheel: Path | None,
    ref: str | None,
    wait: bool,
    command: tuple[str, ...],
    **simple: str | None,
) -> int | None:
    """Submit a training run: what run.yaml says, or a COMMAND of your own.

    `aios run submit -- python train.py --lr 0.1` packs this folder, but for what .gitignore and .aiosignore name, and
    runs the command in a copy of it.
    """
    if wheel and ref:
        raise click.UsageError("--wheel and --ref are two ways to say what the code is: keep one.")
    given: dict[str, Any] = {"command": list(command)} if command else {}
    given |= {"wheel": str(wheel.absolute())} if wheel else {}
    spec = load(file, assignments, {**given, **{key: value for key, value in simple.items() if value}})
    code = (file.parent if file else Path()) / (spec.get("code") or "")
    with TemporaryDirectory(prefix="aios-ref-") as exported, connected() as client:
        if ref:
            from aios.code import export

            export(code, ref, Path(exported))
            code = Path(exported)
        made = client.runs.submit(spec, code=code)
        return follow(client, made.name) if announced(made, wait) else None


def announced(made: Any, wait: bool) -> bool:
    """Say what was submitted, and how to follow it unless it is waited for now. Returns wait."""
    if wait:
        output.notice(f"Submitted {leaf(made.name)}.")
    else:
        output.emit(made, DETAILS)
        output.notice(f"Follow it with `aios run watch {leaf(made.name)}`.")
    return wait


@run.command("list")
@click.option("-n", "--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many.")
@common
def list_(limit: int) -> None:
    """The project's runs, newest first."""
    with connected() as client:
        output.emit_list(client.runs.list(limit), RUN, none=FIRST)


@run.command()
@click.argument("name")
@common
def get(name: str) -> None:
    """One run."""
    with connected() as client:
        output.emit(client.runs.get(name), DETAILS)


@run.command()
@click.argument("name")
@common
def watch(name: str) -> int:
    """Follow a run to its end, and end with its exit code."""
    with connected() as client:
        return follow(client, name)


@run.command()
@click.argument("name")
@click.option("-f", "--follow", "keep", is_flag=True, help="Go on until the run has ended.")
@common
def logs(name: str, keep: bool) -> None:
    """What the training process wrote."""
    with connected() as client:
        write(client.runs.logs(name, follow=keep))


@run.command()
@click.argument("name")
@click.option("--key", default="", help="Only this metric.")
@common
def metrics(name: str, key: str) -> None:
    """The points of a run, by step."""
    with connected() as client:
        output.emit_list(client.runs.metrics(name, key), POINT, none="No metrics yet.")


@run.command()
@click.argument("name")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path), default=".")
@common
def outputs(name: str, directory: Path) -> None:
    """Fetch what a run left behind into a DIRECTORY."""
    from aios.errors import NotFound

    with connected() as client:
        version = client.runs.get(name).outputs
        if not version:
            raise NotFound(f"{leaf(name)} has left nothing behind, or not yet.", reason="NO_OUTPUTS")
        for path in client.datasets.pull(version, directory):
            output.notice(str(path))


@run.command()
@click.argument("name")
@common
def cancel(name: str) -> None:
    """Ask a run to stop. Its last checkpoint stays."""
    with connected() as client:
        output.emit(client.runs.cancel(name), DETAILS)


def load(
    file: Path | None, assignments: tuple[str, ...] = (), more: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Read a run.yaml, with `more` in place of what it says, and values replaced by `--set`.

    Raises:
        UsageError: there is neither a file nor a command.
        InvalidArgument: it is no YAML, or no mapping.
    """
    import yaml

    from aios.client.runspec import override
    from aios.errors import InvalidArgument

    if file is None and not (more or {}).get("command"):
        raise click.UsageError("Give -f run.yaml, or a command: `aios run submit -- python train.py`.")
    try:
        given = yaml.safe_load(file.read_text()) if file is not None else {}
    except yaml.YAMLError as error:
        raise InvalidArgument.of(str(file), f"is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(given, dict):
        raise InvalidArgument.of(str(file), "must hold keys with values, such as `recipe: image_classifier`")
    return override({**given, **(more or {})}, assigned(assignments))


def assigned(assignments: tuple[str, ...]) -> dict[str, Any]:
    """What `--set KEY=VALUE` says, each value as YAML reads it.

    Raises:
        InvalidArgument: one has no key or no `=`.
    """
    import yaml

    from aios.errors import InvalidArgument

    values = {}
    for assignment in assignments:
        path, sign, value = assignment.partition("=")
        if not sign or not path:
            raise InvalidArgument.of("--set", f"must look like hyperparameters.lr=0.1, not {assignment!r}")
        values[path] = yaml.safe_load(value)
    return values


def follow(client: Any, name: str, *, quiet: bool = False) -> int:
    """Show a run until it has ended; returns its exit code. Ctrl-C leaves it running.

    Args:
        quiet: One that succeeds is not shown itself: something else is the answer.
    """
    last: Any = None
    try:
        with Bar() as bar:
            for message in client.runs.follow(name):
                last = message.run
                progress = last.progress
                text = f"{leaf(last.name)} {state(last)}" + (f" {progress.phase}" if progress.phase else "")
                why = last.state_message if not progress.step else ""
                bar.update(
                    text,
                    progress.step,
                    progress.total_steps or None,
                    why or f"{done(last)} {metrics_line(last.metrics)}",
                )
    except KeyboardInterrupt:
        output.notice(f"\nThe run goes on. Follow it again with `aios run watch {leaf(name)}`; "
                      f"stop it with `aios run cancel {leaf(name)}`.")  # fmt: skip
        return INTERRUPTED
    code = exit_code(last)
    if code or not quiet:
        output.emit(last, DETAILS)
    if code:
        output.notice(f"What it wrote: `aios run logs {leaf(last.name)}`.")
    return code


def exit_code(run: Any) -> int:
    """What `--wait` ends with: the run's own exit code, or PLATFORM_FAILED where it has none to give."""
    from aios.trainer.v1 import run_pb2

    if run.state == run_pb2.Run.STATE_SUCCEEDED:
        return 0
    return int(run.exit_code) or PLATFORM_FAILED


def metrics_line(values: Mapping[str, float]) -> str:
    """Metrics in one line, by name."""
    return " ".join(f"{key}={figure(value)}" for key, value in sorted(values.items()))
