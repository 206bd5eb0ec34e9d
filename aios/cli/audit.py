"""`aios audit`: who did what with data."""

import click

from aios.cli import output
from aios.cli.output import Columns, Noun, common, connected, leaf, short

ENTRY: Columns = {
    "TIME": lambda e: e.time.ToJsonString(),
    "WHO": lambda e: e.subject or "nobody known",
    "ROLE": lambda e: e.role,
    "FROM": lambda e: e.source,
    "CALL": lambda e: leaf(e.method),
    "RESOURCE": lambda e: short(e.resource),
    "ANSWER": lambda e: e.reason or e.code,
}


@click.group(cls=Noun)
def audit() -> None:
    """Who read and changed data of the project, and who was refused. For admins."""


@audit.command("list")
@click.option("-r", "--resource", default="", help="Only this and what lies below it: datasets/people.")
@click.option("-s", "--subject", default="", help="Only what this caller did.")
@click.option("--denied", is_flag=True, help="Only what was refused.")
@click.option("-n", "--limit", type=click.IntRange(1), default=50, show_default=True, help="How many lines.")
@common
def list_(resource: str, subject: str, denied: bool, limit: int) -> None:
    """The newest first."""
    with connected() as client:
        found = client.privacy.audit(resource=resource, subject=subject, denied=denied, limit=limit)
        output.emit_list(found, ENTRY, none="Nothing yet.")
