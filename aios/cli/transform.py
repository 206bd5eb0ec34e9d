"""`aios transform`: submit, types, list, get, watch, show, logs, cancel."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from aios.cli import output
from aios.cli.job import INTERRUPTED, write
from aios.cli.output import Columns, Noun, age, common, connected, figure, leaf, short, state

FAILED = 1
TRANSFORM: Columns = {
    "NAME": lambda t: leaf(t.name),
    "STATE": state,
    "TYPE": lambda t: t.spec.type,
    "INPUT": lambda t: short(t.spec.input),
    "OUTPUT": lambda t: short(t.output_version) or t.spec.output,
    "AGE": lambda t: age(t.create_time),
    "WHY": lambda t: "" if state(t) == "succeeded" else t.state_message,
}
DETAILS: Columns = {**TRANSFORM, "JOB": lambda t: leaf(t.job), "TRACE": lambda t: t.trace_id}
FIRST = "No transforms yet: `aios transform submit profile titanic titanic-profile` makes one."
SHOWN_COLUMNS = ("kind", "nulls", "unique", "mean", "std", "min", "50%", "max")


@click.group(cls=Noun)
def transform() -> None:
    """Transforms: data profiled, cleaned, divided and made ready on the pool."""


@transform.command()
@click.argument("type_", metavar="TYPE")
@click.argument("input_", metavar="INPUT")
@click.argument("to", metavar="OUTPUT")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="A parameter: parts={train: 0.9, test: 0.1}",
)
@click.option(
    "--with", "further", multiple=True, metavar="NAME=VERSION", help="A further version: baseline=flights/@v1"
)
@click.option("--name", default="", help="Its name; one is made up where none is given.")
@click.option("--wait", is_flag=True, help="Wait for its end, and show what came of it.")
@common
def submit(
    type_: str,
    input_: str,
    to: str,
    assignments: tuple[str, ...],
    further: tuple[str, ...],
    name: str,
    wait: bool,
) -> int | None:
    """Make a version of the dataset OUTPUT from INPUT, such as titanic or titanic/VERSION.

    `aios transform types` says what there is and what can be set.
    """
    parameters, inputs = _assigned(assignments, "--set"), _assigned(further, "--with")
    with connected() as client:
        made = client.transforms.submit(type_, input_, to, parameters, inputs=inputs, transform_id=name)
        if not wait:
            output.emit(made, DETAILS)
            output.notice(f"Its result: `aios transform show {leaf(made.name)}` once it has ended.")
            return None
        output.notice(f"Submitted {leaf(made.name)}.")
        return _await(client, made.name)


@transform.command()
@click.argument("type_", metavar="TYPE", default="")
@common
def types(type_: str) -> None:
    """What can be done to data; of one TYPE, what can be set."""
    with connected() as client:
        found = list(client.transforms.types())
    chosen = [each for each in found if type_ in ("", each.type)]
    if output.shared().output != "table":
        output.emit_list(chosen, {}, none="")
    elif type_ and chosen:
        rows = [
            [each.name, output.to_data(each).get("default", ""), each.summary + _choices(each.choices)]
            for each in chosen[0].parameters
        ]
        output.notice(chosen[0].summary)
        output.table(rows, ["PARAMETER", "DEFAULT", "MEANING"])
    else:
        columns: Columns = {
            "TYPE": lambda t: t.type,
            "DOES": lambda t: t.summary,
            "READS": lambda t: " ".join(t.inputs),
        }
        output.emit_list(chosen, columns, none=f"There is no transform {type_!r}.")


@transform.command("list")
@click.option("-n", "--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many.")
@common
def list_(limit: int) -> None:
    """The project's transforms, newest first."""
    with connected() as client:
        output.emit_list(client.transforms.list(limit), TRANSFORM, none=FIRST)


@transform.command()
@click.argument("name")
@common
def get(name: str) -> None:
    """One transform."""
    with connected() as client:
        output.emit(client.transforms.get(name), DETAILS)


@transform.command()
@click.argument("name")
@common
def watch(name: str) -> int:
    """Wait for the end of a transform, and show what came of it; ends with 0 where it succeeded."""
    with connected() as client:
        return _await(client, name)


@transform.command()
@click.argument("name")
@common
def cancel(name: str) -> None:
    """Ask a transform to stop: its job is cancelled, and nothing is made."""
    with connected() as client:
        client.jobs.cancel(client.transforms.get(name).job)
        output.emit(client.transforms.get(name), DETAILS)


@transform.command()
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on until it has ended.")
@common
def logs(name: str, follow: bool) -> None:
    """What its process wrote."""
    with connected() as client:
        write(client.transforms.logs(name, follow=follow))


@transform.command()
@click.argument("name")
@click.option(
    "--page",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Put the report with its plots into a file.",
)
@common
def show(name: str, page: Path | None) -> None:
    """What came of a transform, by its NAME."""
    from aios.errors import FailedPrecondition

    with connected() as client:
        found = client.transforms.get(name)
        if not found.output_version:
            raise FailedPrecondition(f"{leaf(found.name)} has made nothing, or not yet.", reason="NO_RESULT")
        report(client, found.output_version, page)


def report(client: Any, version: str, page: Path | None = None) -> None:
    """Show what a transform said of the version that it made."""
    found = client.transforms.report(version)
    if output.shared().output != "table":
        output.emit_data(found, [])
        return
    for rows, headings in summary_of(found):
        output.table(rows, headings)
    if page is not None:
        output.notice(f"The report is in {client.transforms.page(version, page)}.")


def summary_of(found: Mapping[str, Any]) -> list[tuple[Sequence[Sequence[object]], Sequence[str]]]:
    """A report as tables: a profile by column, anything else by its figures."""
    profiled = found.get("columns")
    profiled = profiled if isinstance(profiled, Mapping) else {}
    hidden = ("columns", "correlations") if profiled else ()
    plain = {key: value for key, value in found.items() if key not in hidden}
    tables: list[tuple[Sequence[Sequence[object]], Sequence[str]]] = [(list(_flat(plain)), ())]
    for part, columns in profiled.items():
        rows = [[part, name, *_figures(each)] for name, each in columns.items()]
        tables.append((rows, ["PART", "COLUMN", *(each.upper() for each in SHOWN_COLUMNS)]))
    return tables


def _figures(each: Mapping[str, Any]) -> list[object]:
    inner = each.get("characters") or each.get("brightness") or each
    merged = {**inner, **inner.get("quantiles", {}), "kind": each["kind"], "nulls": each["nulls"]}
    merged["unique"] = each.get("unique", "")
    return [_cell(merged.get(key, "")) for key in SHOWN_COLUMNS]


def _flat(value: Any, prefix: str = "") -> list[list[object]]:
    """Nested figures, a line for each."""
    if isinstance(value, Mapping) and value:
        return [
            line
            for key, each in value.items()
            for line in _flat(each, f"{prefix}{' ' if prefix else ''}{key}")
        ]
    if isinstance(value, list):
        return [
            [prefix, ", ".join(str(_cell(each)) for each in value[:10]) + (" …" if len(value) > 10 else "")]
        ]
    return [[prefix, _cell(value)]] if value != {} else []


def _cell(value: object) -> object:
    return figure(value) if isinstance(value, float) else value


def _choices(choices: Sequence[str]) -> str:
    return f" ({', '.join(choices)})" if choices else ""


def _assigned(assignments: Sequence[str], option: str) -> dict[str, Any]:
    import yaml

    from aios.errors import InvalidArgument

    found = {}
    for assignment in assignments:
        key, sign, value = assignment.partition("=")
        if not sign or not key:
            raise InvalidArgument.of(option, f"must look like key=value, not {assignment!r}")
        try:
            found[key] = yaml.safe_load(value) if option == "--set" else value
        except yaml.YAMLError as error:
            raise InvalidArgument.of(option, f"is not YAML: {' '.join(str(error).split())}") from None
    return found


def _await(client: Any, name: str) -> int:
    """Wait for its end, and show it. Ctrl-C leaves it running."""
    try:
        found = client.transforms.wait(name)
    except KeyboardInterrupt:
        output.notice(f"\nIt goes on. `aios transform watch {leaf(name)}` waits for it again.")
        return INTERRUPTED
    if state(found) != "succeeded":
        output.emit(found, DETAILS)
        write(client.transforms.logs(name))
        return FAILED
    if output.shared().output != "table":
        output.emit(found, DETAILS)
        return 0
    output.emit(found, DETAILS)
    report(client, found.output_version)
    return 0
