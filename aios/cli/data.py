"""`aios data`: the data service's own upkeep."""

import click

from aios.cli import output
from aios.cli.output import Columns, Noun, common, connected

REINDEXED: Columns = {
    "PROJECTS": lambda r: r.projects,
    "LOGS": lambda r: r.logs,
    "ENTRIES": lambda r: r.entries,
    "BLOBS": lambda r: r.blobs,
}
ENCRYPTION: Columns = {"ENCRYPTED": lambda e: "yes" if e.encrypted else "no"}


@click.group(cls=Noun)
def data() -> None:
    """Upkeep of the data service, for operators."""


@data.command()
@common
def encrypt() -> None:
    """Have everything of the project encrypted in the object store. It must hold nothing yet, and stays encrypted."""
    with connected() as client:
        output.emit(client.privacy.encrypt(), ENCRYPTION)


@data.command()
@common
def reindex() -> None:
    """Make the SQL index again from the object store, which is the truth."""
    with connected() as client:
        output.emit(client.datasets.reindex(), REINDEXED)
