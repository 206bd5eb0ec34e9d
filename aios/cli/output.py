"""What every command shares: its options, its client, and the three forms of its answer."""

import functools
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from aios.client import Client

Columns = Mapping[str, Callable[[Any], object]]
"""Heading to what it shows of one item."""


@dataclass
class Shared:
    """The options of one call that every command has."""

    output: str = "table"
    project: str = ""
    address: str = ""


def common(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `-o`, `--json`, `--project` and `--address`. They reach it through `shared()`."""

    @click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json", "yaml"]),
        default="table",
        help="Form of the answer.",
    )
    @click.option("--json", "as_json", is_flag=True, help="The same as -o json.")
    @click.option("-p", "--project", default="", help="Project; AIOS_PROJECT or the login's otherwise.")
    @click.option(
        "--address", default="", help="Address; AIOS_ADDRESS, the login's or this machine's otherwise."
    )
    @functools.wraps(function)
    def command(*args: Any, output: str, as_json: bool, project: str, address: str, **kwargs: Any) -> Any:
        click.get_current_context().obj = Shared("json" if as_json else output, project, address)
        return function(*args, **kwargs)

    return command


def shared() -> Shared:
    """The options of the call under way."""
    obj = click.get_current_context().obj
    return obj if isinstance(obj, Shared) else Shared()


SYNONYMS = (
    {"list", "ls"},
    {"create", "submit", "push", "register"},
    {"delete", "rm", "remove", "revoke"},
    {"cancel", "stop"},
)
"""Verbs that people try for one another. A noun that has one of them understands the others."""
WHY_LENGTH_MAX = 160
"""Characters of a reason in a list; `get` and the documents have it whole."""


class Noun(click.Group):
    """A kind of resource; without a verb its `list`, or its help where it has none."""

    without_a_verb = "list"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        bare = not args or (args[0].startswith("-") and args[0] not in ("-h", "--help"))
        if bare and self.without_a_verb in self.commands and not ctx.resilient_parsing:  # that is completion
            args = [self.without_a_verb, *args]
        return super().parse_args(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self.commands:
            return self.commands[cmd_name]
        meant = [
            verb for verbs in SYNONYMS if cmd_name in verbs for verb in sorted(verbs & self.commands.keys())
        ]
        return self.commands[meant[0]] if len(meant) == 1 else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and self.get_command(ctx, args[0]) is None:
            from aios.cli.root import nearest

            known = sorted(self.commands)
            ctx.fail(f"No such verb {args[0]!r}.{nearest(args[0], known)} There are: {', '.join(known)}.")
        return super().resolve_command(ctx, args)


@contextmanager
def connected() -> "Iterator[Client]":
    """A client for the address and project of this call."""
    from aios.client import Client

    with Client(shared().address, "", shared().project) as client:
        yield client


def emit_list(items: Iterable[Any], columns: Columns, *, none: str) -> None:
    """Show resources: a row each, or the documents whole. `none` says how to make the first."""
    found = list(items)
    if not found and shared().project:
        with connected() as client:
            client.projects.get()  # no project has nothing: a mistyped one is an error
    if shared().output != "table":
        _document([to_data(item) for item in found])
    elif not found:
        notice(none)
    else:
        rows = [
            [_brief(show(item)) if heading == "WHY" else show(item) for heading, show in columns.items()]
            for item in found
        ]
        table(rows, list(columns))


def emit(item: Any, columns: Columns) -> None:
    """Show one resource: a line for each heading, or the document whole."""
    if shared().output != "table":
        _document(to_data(item))
        return
    rows = [[heading.lower(), show(item)] for heading, show in columns.items()]
    table([row for row in rows if row[1] not in ("", None)])


def emit_data(data: Any, rows: Sequence[Sequence[object]], headings: Sequence[str] = ()) -> None:
    """Show plain data, as rows or as the document."""
    if shared().output != "table":
        _document(data)
    else:
        table(rows, headings)


def table(rows: Iterable[Sequence[object]], headings: Sequence[str] = ()) -> None:
    """Aligned columns on stdout. Never cut off where the output is read by a program."""
    from rich.table import Table
    from rich.text import Text

    made = Table(
        box=None, show_header=bool(headings), header_style="bold", pad_edge=False, padding=(0, 2, 0, 0)
    )
    for heading in headings or ("", ""):
        made.add_column(heading, overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(_cell(cell)) for cell in row))
    console().print(made)


def console(*, err: bool = False) -> "Console":
    """stdout or stderr. Plain and as wide as needed where no terminal reads it. Honours NO_COLOR."""
    from rich.console import Console

    stream = sys.stderr if err else sys.stdout
    return Console(
        stderr=err, highlight=False, width=None if stream.isatty() else 1000, soft_wrap=not stream.isatty()
    )


def notice(text: str) -> None:
    """Say something beside the data."""
    click.echo(text, err=True)


def to_data(item: Any) -> Any:
    """A message as the HTTP API would spell it; anything else as it is."""
    from google.protobuf.json_format import MessageToDict
    from google.protobuf.message import Message

    return MessageToDict(item) if isinstance(item, Message) else item


def short(name: str) -> str:
    """A resource name without its project."""
    return name.split("/", 2)[2] if name.startswith("projects/") and name.count("/") > 1 else name


def leaf(name: str) -> str:
    """The last segment of a name."""
    return name.rpartition("/")[2]


def state(item: Any) -> str:
    """A resource's state in lower case, without the enum's prefix."""
    field = item.DESCRIPTOR.fields_by_name["state"]
    value = field.enum_type.values_by_number.get(item.state)
    return str(value.name.removeprefix("STATE_").lower()) if value is not None else f"state {item.state}"


def age(stamp: Any) -> str:
    """How long ago a Timestamp was; empty where unset."""
    if not stamp.seconds:
        return ""
    return span((datetime.now(UTC) - stamp.ToDatetime(tzinfo=UTC)).total_seconds())


def span(seconds: float) -> str:
    """A length of time in one unit: `12s`, `5m`, `3h`, `9d`."""
    seconds = max(0, seconds)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def figure(value: float) -> str:
    """A metric's value in few digits."""
    return f"{value:.4g}"


def _brief(why: object) -> str:
    """The first line of a reason. Servers of others put their line ends in as two characters."""
    line = re.split(r"\n|\\n", str(why), maxsplit=1)[0]
    whole = len(line) == len(str(why)) <= WHY_LENGTH_MAX
    return line if whole else f"{line[:WHY_LENGTH_MAX].rstrip()} …"


def _cell(value: object) -> str:
    return "" if value is None else str(value)


def _document(data: Any) -> None:
    if shared().output == "yaml":
        import yaml

        click.echo(yaml.safe_dump(data, sort_keys=False, allow_unicode=True).rstrip())
    else:
        click.echo(json.dumps(data, indent=2, ensure_ascii=False))
