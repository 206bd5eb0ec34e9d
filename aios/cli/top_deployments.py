"""`aios top deployments`: what each revision does now."""

from typing import TYPE_CHECKING, Any

from aios.cli import output
from aios.cli.output import leaf, state
from aios.cli.serve import FIGURES

if TYPE_CHECKING:
    from rich.console import Group


def look(client: Any) -> dict[str, list[Any]]:
    """Deployments, and the figures of their revisions."""
    return {"deployments": list(client.deployments.list()), "figures": list(client.deployments.figures())}


def data(found: dict[str, list[Any]]) -> dict[str, Any]:
    """The same for programs."""
    return {key: [output.to_data(each) for each in values] for key, values in found.items()}


def page(found: dict[str, list[Any]]) -> "Group":
    """The same for people."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    figures = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for heading in FIGURES:
        figures.add_column(heading)
    for each in found["figures"]:
        figures.add_row(
            *(str(show(each)) for show in FIGURES.values()),
            style="yellow" if each.errors * 100 > each.requests else "",
        )
    notes = [
        Text(f"{leaf(each.name)} {state(each)}: {each.state_message or each.traffic_reason}")
        for each in found["deployments"]
        if state(each) != "ready"
    ]
    total = sum(each.requests_per_second for each in found["figures"])
    head = f"{len(found['deployments'])} deployments, {total:.1f} predictions a second in the last 10 s"
    return Group(head, "", figures, *([Text(), *notes] if notes else []))
