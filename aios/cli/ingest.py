"""`aios ingest`: mqtt, device, dead."""

import click

from aios.cli import output
from aios.cli.output import Columns, Noun, age, common, connected, leaf
from aios.data.v1 import ingest_pb2
from aios.errors import InvalidArgument

SOURCE: Columns = {
    "NAME": lambda s: leaf(s.name),
    "DATASET": lambda s: leaf(s.dataset),
    "WINDOW": lambda s: f"{s.window_seconds} s",
    "ROWS": lambda s: s.accepted_count,
    "OPEN": lambda s: s.open_count,
    "DEAD": lambda s: s.rejected_count,
    "VERSIONS": lambda s: s.window_count,
    "AGE": lambda s: age(s.create_time),
}
SOURCE_DETAILS: Columns = {
    **SOURCE,
    "TOPIC": lambda s: f"{s.topic}/DEVICE",
    "COLUMNS": lambda s: " ".join(f"{c.name}:{_type(c)}" for c in s.columns),
}
DEVICE: Columns = {
    "NAME": lambda d: leaf(d.name),
    "USER": lambda d: d.user,
    "TOPIC": lambda d: d.topic,
    "AGE": lambda d: age(d.create_time),
}
DEVICE_MADE: Columns = {
    "NAME": lambda d: leaf(d.name),
    "USER": lambda d: d.user,
    "PASSWORD": lambda d: d.password,
    "TOPIC": lambda d: d.topic,
}
DEAD: Columns = {
    "DEVICE": lambda m: m.device,
    "WHY": lambda m: m.reason,
    "DETAIL": lambda m: m.detail,
    "MESSAGE": lambda m: m.data[:SHOWN_BYTES].decode(errors="replace"),
    "AGE": lambda m: age(m.create_time),
}
SHOWN_BYTES = 60
FIRST = "No sources yet: `aios ingest mqtt create weather -d weather -c celsius:double:required` makes one."
limited = click.option(
    "-n", "--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many."
)


@click.group(cls=Noun)
def ingest() -> None:
    """What devices publish over MQTT, as versions of datasets."""


@ingest.group(cls=Noun)
def mqtt() -> None:
    """Sources: where devices publish, and what becomes of it."""


@mqtt.command()
@click.argument("name")
@click.option(
    "-d", "--dataset", required=True, help="The dataset that its rows go to; made where there is none."
)
@click.option(
    "-c",
    "--column",
    "columns",
    multiple=True,
    required=True,
    metavar="NAME:TYPE[:...]",
    help="What a message holds. TYPE is double, int64, string, bool or timestamp; then `required`, `min=N`, `max=N`.",
)
@click.option(
    "--time", "time_column", default="", help="The column that says when; arrival does where none is given."
)
@click.option(
    "--window-seconds", type=click.IntRange(1), default=60, show_default=True, help="Length of a window."
)
@click.option(
    "--window-rows",
    type=click.IntRange(1),
    default=10_000,
    show_default=True,
    help="Rows that close one early.",
)
@click.option(
    "--max-lateness",
    type=click.IntRange(1),
    default=30,
    show_default=True,
    help="Seconds that a message may be behind the newest.",
)
@common
def create(
    name: str,
    dataset: str,
    columns: tuple[str, ...],
    time_column: str,
    window_seconds: int,
    window_rows: int,
    max_lateness: int,
) -> None:
    """Make a source NAME, such as weather -d weather -c celsius:double:required:min=-90:max=60."""
    with connected() as client:
        made = client.ingest.create(
            name,
            dataset,
            [column(text) for text in columns],
            time_column=time_column,
            window_seconds=window_seconds,
            window_rows=window_rows,
            max_lateness_seconds=max_lateness,
        )
    output.emit(made, SOURCE_DETAILS)
    output.notice(f"Let a device in: `aios ingest device create {name} DEVICE`.")


@mqtt.command("list")
@limited
@common
def list_sources(limit: int) -> None:
    """The project's sources."""
    with connected() as client:
        output.emit_list(client.ingest.list(limit), SOURCE, none=FIRST)


@mqtt.command("get")
@click.argument("name")
@common
def get_source(name: str) -> None:
    """A source, with what it has taken in."""
    with connected() as client:
        output.emit(client.ingest.get(name), SOURCE_DETAILS)


@mqtt.command("delete")
@click.argument("name")
@common
def delete_source(name: str) -> None:
    """Remove a source with its devices and what waits in it. Its dataset stays."""
    with connected() as client:
        client.ingest.delete(name)
    output.notice(f"Deleted {leaf(name)}.")


@ingest.group(cls=Noun)
def device() -> None:
    """Devices: each may publish to its own topic, and do nothing else."""


@device.command("create")
@click.argument("source")
@click.argument("name")
@common
def create_device(source: str, name: str) -> None:
    """Let a device in. Its password is shown this once."""
    with connected() as client:
        made = client.ingest.create_device(source, name)
    output.emit(made, DEVICE_MADE)
    output.notice(
        "The password is not kept. USER is its client id too. The door for devices is open where AIOS_MQTT_ADDRESS is set."
    )


@device.command("list")
@click.argument("source")
@limited
@common
def list_devices(source: str, limit: int) -> None:
    """Devices of a source."""
    with connected() as client:
        none = f"No devices yet: `aios ingest device create {source} DEVICE` lets one in."
        output.emit_list(client.ingest.devices(source, limit), DEVICE, none=none)


@device.command("get")
@click.argument("source")
@click.argument("name")
@common
def get_device(source: str, name: str) -> None:
    """One device."""
    with connected() as client:
        output.emit(client.ingest.get_device(source, name), DEVICE)


@device.command("delete")
@click.argument("source")
@click.argument("name")
@common
def delete_device(source: str, name: str) -> None:
    """Shut a device out, within five seconds."""
    with connected() as client:
        client.ingest.delete_device(source, name)
    output.notice(f"{name} is shut out.")


@ingest.command()
@click.argument("source")
@limited
@common
def dead(source: str, limit: int) -> None:
    """Messages that became no rows, newest first, each with what was wrong."""
    with connected() as client:
        output.emit_list(client.ingest.dead(source, limit), DEAD, none="No message was refused.")


def column(text: str) -> ingest_pb2.IngestColumn:
    """A column as it is typed: `celsius:double:required:min=-90:max=60`.

    Raises:
        InvalidArgument
    """
    name, _, rest = text.partition(":")
    kind, *options = rest.split(":")
    kinds = {each.removeprefix("TYPE_").lower(): each for each in ingest_pb2.IngestColumn.Type.keys()[1:]}
    if kind not in kinds:
        raise InvalidArgument.of("--column", f"{text}: the type must be one of {', '.join(kinds)}")
    made = ingest_pb2.IngestColumn(name=name, type=ingest_pb2.IngestColumn.Type.Value(kinds[kind]))
    for option in options:
        key, _, value = option.partition("=")
        try:
            if option == "required":
                made.required = True
            elif key == "min":
                made.min = float(value)
            elif key == "max":
                made.max = float(value)
            else:
                raise ValueError
        except ValueError:
            problem = f"{text}: {option!r} must be `required`, `min=NUMBER` or `max=NUMBER`"
            raise InvalidArgument.of("--column", problem) from None
    return made


def _type(column: ingest_pb2.IngestColumn) -> str:
    return ingest_pb2.IngestColumn.Type.Name(column.type).removeprefix("TYPE_").lower()
