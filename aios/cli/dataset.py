"""`aios dataset`: push, pull, list, get, versions."""

from pathlib import Path

import click

from aios.cli import output
from aios.cli.output import Columns, Noun, age, common, connected, leaf, short, size
from aios.cli.progress import Transfer

DATASET: Columns = {
    "NAME": lambda d: leaf(d.name),
    "LATEST": lambda d: leaf(d.latest_version),
    "DESCRIPTION": lambda d: d.description,
    "AGE": lambda d: age(d.create_time),
}
VERSION: Columns = {
    "VERSION": lambda v: short(v.name),
    "FILES": lambda v: v.file_count,
    "SIZE": lambda v: size(v.size_bytes),
    "MESSAGE": lambda v: v.message,
    "CREATOR": lambda v: v.creator,
    "AGE": lambda v: age(v.create_time),
}
FIRST = "No datasets yet: `aios dataset push NAME DIRECTORY` makes one."


@click.group(cls=Noun)
def dataset() -> None:
    """Datasets: versions of files, known by their content."""


@dataset.command()
@click.argument("name")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option("-m", "--message", default="", help="Why this version was made.")
@common
def push(name: str, source: Path, message: str) -> None:
    """Store a file or directory as the next version of NAME.

    Content that is already stored is not sent again.
    """
    with connected() as client, Transfer() as transfer:
        version = client.datasets.push(name, source, message=message, progress=transfer.report)
    output.emit(version, VERSION)


@dataset.command()
@click.argument("name")
@click.argument("destination", type=click.Path(file_okay=False, path_type=Path))
@common
def pull(name: str, destination: Path) -> None:
    """Fetch the files of NAME, or of one version NAME/VERSION, into a directory."""
    with connected() as client, Transfer() as transfer:
        files = client.datasets.pull(name, destination, progress=transfer.report)
    output.emit_data([str(file) for file in files], [[file] for file in files])


@dataset.command("list")
@common
def list_() -> None:
    """The project's datasets."""
    with connected() as client:
        output.emit_list(client.datasets.list(), DATASET, none=FIRST)


@dataset.command()
@click.argument("name")
@common
def get(name: str) -> None:
    """One dataset, or one version NAME/VERSION with its files."""
    with connected() as client:
        if "/" not in name.removeprefix("datasets/"):
            output.emit(client.datasets.get(name), DATASET)
            return
        version = client.datasets.version(name)
    output.emit(version, VERSION)
    if output.shared().output == "table":
        output.table(
            [[file.path, size(file.size_bytes), file.sha256] for file in version.files],
            ["FILE", "SIZE", "SHA-256"],
        )


@dataset.command()
@click.argument("name")
@common
def versions(name: str) -> None:
    """The versions of a dataset, newest first."""
    with connected() as client:
        output.emit_list(client.datasets.versions(name), VERSION, none="No version yet.")
