"""`aios sweep`: create, list, get, watch, best, trials, report, cancel."""

from pathlib import Path
from typing import Any

import click

from aios.cli import output
from aios.cli.job import INTERRUPTED, PLATFORM_FAILED
from aios.cli.output import Columns, Noun, age, common, connected, figure, leaf, state
from aios.cli.progress import Bar
from aios.cli.run import load


def settings(trial: Any) -> str:
    """A trial's hyperparameters in one line."""
    from google.protobuf.json_format import MessageToDict

    found = MessageToDict(trial.hyperparameters)
    return " ".join(
        f"{key}={figure(value) if isinstance(value, float) else value}" for key, value in found.items()
    )


def best_of(sweep: Any) -> str:
    """The best value of the first objective."""
    if not sweep.best:
        return ""
    return f"{sweep.spec.objectives[0].metric}={figure(sweep.best[0].values[0])}"


SWEEP: Columns = {
    "NAME": lambda s: leaf(s.name),
    "STATE": state,
    "TRIALS": lambda s: " ".join(f"{count} {kind.lower()}" for kind, count in sorted(s.trials.items())),
    "STEPS": lambda s: s.steps or "",
    "BEST": best_of,
    "AGE": lambda s: age(s.create_time),
    "WHY": lambda s: s.state_message,
}
DETAILS: Columns = {
    **SWEEP,
    "WITH": lambda s: settings(s.best[0]) if s.best else "",
    "TRAINS": lambda s: s.spec.run.recipe or " ".join(s.spec.run.command),
    "SAMPLER": lambda s: s.spec.sampler.kind,
    "PRUNER": lambda s: s.spec.pruner.kind,
    "LAST RUN": lambda s: leaf(s.last_run),
    "TRACE": lambda s: s.trace_id,
    "CREATOR": lambda s: s.creator,
}
TRIAL: Columns = {
    "TRIAL": lambda t: t.number,
    "STATE": state,
    "VALUE": lambda t: " ".join(figure(value) for value in t.values),
    "SETTINGS": settings,
    "REPORTS": lambda t: t.reports,
    "RUN": lambda t: leaf(t.runs[-1]),
    "WHY": lambda t: t.state_message,
}
FIRST = "No sweeps yet: `aios sweep create -f sweep.yaml` makes one."


@click.group(cls=Noun)
def sweep() -> None:
    """Searches for good hyperparameters."""


@sweep.command()
@click.option(
    "-f",
    "--file",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="sweep.yaml",
)
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Replace a value: budget.trials=50"
)
@click.option("--name", help="The sweep's name; one is made up where none is given.")
@click.option("--wait", is_flag=True, help="Follow it to its end; ends with 0 where it succeeded.")
@common
def create(file: Path, assignments: tuple[str, ...], name: str | None, wait: bool) -> int | None:
    """Make a sweep as sweep.yaml says."""
    spec = load(file, assignments, {"name": name} if name else None)
    inner = spec.get("run")
    code = file.parent / ((inner.get("code") if isinstance(inner, dict) else "") or "")
    with connected() as client:
        made = client.sweeps.create(spec, code=code)
        if wait:
            output.notice(f"Made {leaf(made.name)}.")
            return follow(client, made.name)
        output.emit(made, DETAILS)
        output.notice(f"Follow it with `aios sweep watch {leaf(made.name)}`.")
    return None


@sweep.command("list")
@click.option("-n", "--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many.")
@common
def list_(limit: int) -> None:
    """The project's sweeps, newest first."""
    with connected() as client:
        output.emit_list(client.sweeps.list(limit), SWEEP, none=FIRST)


@sweep.command()
@click.argument("name")
@common
def get(name: str) -> None:
    """One sweep."""
    with connected() as client:
        output.emit(client.sweeps.get(name), DETAILS)


@sweep.command()
@click.argument("name")
@common
def trials(name: str) -> None:
    """Every trial of a sweep, by number."""
    with connected() as client:
        output.emit_list(client.sweeps.trials(name), TRIAL, none="No trials yet.")


@sweep.command()
@click.argument("name")
@common
def best(name: str) -> None:
    """The best trial; with several objectives those that no other beats in all of them."""
    with connected() as client:
        output.emit_list(client.sweeps.get(name).best, TRIAL, none="No trial has reported a value yet.")


@sweep.command()
@click.argument("name")
@common
def watch(name: str) -> int:
    """Follow a sweep to its end; ends with 0 where it succeeded."""
    with connected() as client:
        return follow(client, name)


@sweep.command()
@click.argument("name")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), default="sweep.html")
@common
def report(name: str, file: Path) -> None:
    """Write what was found so far into an HTML FILE."""
    with connected() as client:
        file.write_text(client.sweeps.report(name))
    output.notice(str(file))


@sweep.command()
@click.argument("name")
@common
def cancel(name: str) -> None:
    """Ask a sweep to stop, and its runs with it."""
    with connected() as client:
        output.emit(client.sweeps.cancel(name), DETAILS)


def follow(client: Any, name: str, *, quiet: bool = False) -> int:
    """Show a sweep until it has ended, and what it came to unless `quiet`. Ctrl-C leaves it running."""
    from aios.trainer.v1 import sweep_pb2

    last: Any = None
    try:
        with Bar() as bar:
            for last in client.sweeps.follow(name):
                over = sum(
                    count
                    for kind, count in last.trials.items()
                    if kind not in ("RUNNING", "STOPPING", "PAUSED")
                )
                text = f"{leaf(last.name)} {state(last)}"
                bar.update(text, over, last.spec.budget.trials, f"{SWEEP['TRIALS'](last)} {best_of(last)}")
    except KeyboardInterrupt:
        output.notice(f"\nThe sweep goes on. Follow it again with `aios sweep watch {leaf(name)}`; "
                      f"stop it with `aios sweep cancel {leaf(name)}`.")  # fmt: skip
        return INTERRUPTED
    if not quiet:
        output.emit(last, DETAILS)
    return 0 if last.state == sweep_pb2.Sweep.STATE_SUCCEEDED else PLATFORM_FAILED
