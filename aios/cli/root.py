"""The root of the command tree: what there is, in which module, and how failures end."""

import importlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn

import click

from aios import errors
from aios.errors import AiosError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

COMMANDS: Mapping[str, tuple[str, str]] = {
    "demo": ("demo", "The main job on handwritten digits: data, training, serving, one trace."),
    "up": ("stack", "Start the stack on this machine."),
    "down": ("stack", "Stop the stack on this machine."),
    "restart": ("stack", "Restart services one after another, without a failed call."),
    "status": ("stack", "What runs on this machine."),
    "logs": ("stack", "What a service of the stack wrote."),
    "doctor": ("stack", "What this machine lacks, and the fix."),
    "login": ("identity", "Remember an address and a token."),
    "project": ("identity", "Projects and their members."),
    "token": ("identity", "Tokens: create, list, revoke."),
    "dataset": ("dataset", "Datasets: push, pull, checkout, diff, log, tag, delete."),
    "ingest": ("ingest", "Data of devices over MQTT: sources, devices, dead messages."),
    "transform": ("transform", "Prepare data: submit, types, list, show, logs, cancel."),
    "label": ("annotate", "Labels by people: create, add, next, review, report, export."),
    "run": ("run", "Training runs: submit, list, watch, logs, cancel."),
    "sweep": ("sweep", "Searches for good hyperparameters: create, watch, best, report."),
    "automl": ("automl", "The best model for a dataset within a time, beside a baseline."),
    "job": ("job", "Jobs on the pool: create, list, watch, explain, logs, cancel."),
    "explain": ("explain", "Why a job waits, or why a model gave an answer."),
    "top": ("top", "The pool now: nodes, queues, jobs with progress and reasons."),
    "node": ("job", "The machines of the pool."),
    "queue": ("queue", "How the pool is divided: tree, create, update."),
    "policy": ("policy", "How the pool is shared: get, set, preview."),
    "history": ("history", "What became of jobs: export it for simulate and spreadsheets."),
    "simulate": ("simulate", "Try scheduling policies on a history of jobs."),
    "model": ("model", "The model registry: versions, aliases, log, delete."),
    "optimize": ("optimize", "Make a model version smaller or faster, with a measured verdict."),
    "deploy": ("serve", "Serve a model version under a name."),
    "deployment": ("serve", "Deployments: list, status, watch, logs, history, scale, promote, rollback."),
    "edge": ("edge", "Models on devices without a platform: sign, device, agent."),
    "drift": ("drift", "What a deployment is asked, beside what its model was trained on."),
    "alert": ("alert", "Rules on deployments that tell when they are broken: create, list, delete."),
    "predict": ("predict", "Ask a deployment."),
    "trace": ("trace", "Traces: the newest ones, or one as a waterfall."),
    "data": ("data", "Upkeep of the data service: reindex, encrypt."),
    "audit": ("audit", "Who read and changed data, and who was refused."),
    "events": ("events", "Events between services that went wrong: dead, redeliver, delete."),
    "lineage": ("trace", "What a resource came from, and what came from it."),
    "completion": ("completion", "Completion of commands in bash, zsh and fish."),
}
"""Command to its module in this package and its line in the help."""
LISTS: Mapping[str, str] = {
    "runs": "run", "sweeps": "sweep", "transforms": "transform", "jobs": "job", "datasets": "dataset", "models": "model",
    "ingestSources": "ingest mqtt", "edgeDevices": "edge device",
    "deployments": "deployment", "alerts": "alert", "labelProjects": "label", "tokens": "token", "traces": "trace",
}  # fmt: skip
"""Collection of resources to the command that lists it."""

RESOURCE = re.compile(r"projects/[^/\s]+/(\w+)/")


class Root(click.Group):
    """Knows every command's name and line; imports its module when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"aios.cli.{COMMANDS[cmd_name][0]}")
        command = getattr(module, cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        from click.shell_completion import CompletionItem

        names = [name for name in COMMANDS if name.startswith(incomplete)]
        return [CompletionItem(name, help=COMMANDS[name][1]) for name in names]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS:
            ctx.fail(f"No such command {args[0]!r}.{nearest(args[0], list(COMMANDS))}")
        return super().resolve_command(ctx, args)


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(message="%(version)s", package_name="aios-platform")
def root() -> None:
    """AIOS: data, training and serving on one pool, with one trace through it all.

    Start with `aios demo`. Every command has `--help`, and takes `-o table|json|yaml`.
    """


def nearest(word: str, known: Sequence[str]) -> str:
    """` Did you mean X?`, where something is near."""
    from difflib import get_close_matches

    near = get_close_matches(word, known, 1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command line.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted; of what was followed to its end its own, or 125.
    """
    try:
        result = root.main(list(arguments) if arguments is not None else None, standalone_mode=False)
    except click.exceptions.Exit as leaving:
        sys.exit(leaving.exit_code)
    except click.ClickException as error:
        error.show()
        if isinstance(error, click.NoSuchOption) and isinstance(getattr(error.ctx, "command", None), Root):
            click.echo("  Options follow the command: `aios run list -o json`.", err=True)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output has gone, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except AiosError as error:
        show(error)
        sys.exit(1)
    sys.exit(result if isinstance(result, int) else 0)


def show(error: AiosError) -> None:
    """One line of what, and what to do next."""
    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    click.echo(
        f"{click.style('Error:', fg='red', bold=True) if colour else 'Error:'} {error.message}", err=True
    )
    for field, problem in error.fields.items():
        if field not in error.message:
            click.echo(f"  {field}: {problem}", err=True)
    if advice := advise(error):
        click.echo(f"  {advice}", err=True)


def advise(error: AiosError) -> str:
    """What to try next, where the message does not say."""
    if "`aios " in error.message:
        return ""
    if isinstance(error, errors.NotFound) and (found := RESOURCE.search(error.message)):
        return f"`aios {LISTS[found[1]]} list` shows what there is." if found[1] in LISTS else ""
    if isinstance(error, errors.Unavailable) and error.message.startswith("Deployment "):
        return f"`aios deployment status {error.message.split()[1]}` says why."
    if isinstance(error, errors.Unavailable):
        return "Is it up? `aios status` shows the stack of this machine, `aios up` starts it."
    if isinstance(error, errors.Unauthenticated):
        return "Log in again: `aios login`."
    if isinstance(error, errors.PermissionDenied):
        return "Ask an admin of the project for a role that may: `aios project members`."
    if isinstance(error, errors.Internal):
        return "This is a fault of the platform; `aios logs` of the service shows it."
    return ""
