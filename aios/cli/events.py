"""`aios events`."""

import click

from aios.cli import output
from aios.cli.output import Columns, Noun, age, common, connected, leaf

DEAD: Columns = {
    "NUMBER": lambda e: leaf(e.name),
    "CONSUMER": lambda e: e.consumer,
    "SUBJECT": lambda e: e.subject,
    "DELIVERIES": lambda e: e.deliveries,
    "WHY": lambda e: e.error,
    "AGE": lambda e: age(e.create_time),
}


class Events(Noun):
    """Without a verb its dead ones."""

    without_a_verb = "dead"


@click.group(cls=Events)
def events() -> None:
    """Events between services that went wrong. Operators only."""


@events.command("dead")
@click.option("-n", "--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many.")
@common
def list_dead(limit: int) -> None:
    """Events that a consumer gave up, oldest first. They are kept for 30 days."""
    with connected() as client:
        output.emit_list(client.events.dead(limit), DEAD, none="No event was given up.")


@events.command("redeliver")
@click.argument("number")
@common
def redeliver(number: str) -> None:
    """Send a dead event again: once what made it fail is repaired. Its effect happens once."""
    with connected() as client:
        output.emit(client.events.redeliver(number), DEAD)


@events.command("delete")
@click.argument("number")
@common
def delete(number: str) -> None:
    """Forget a dead event."""
    with connected() as client:
        client.events.delete(number)
    output.notice(f"Forgot dead event {leaf(number)}.")
