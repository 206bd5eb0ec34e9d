"""`aios trace` and `aios lineage`."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from aios.cli import output
from aios.cli.output import Columns, age, common, connected, leaf, short

TRACE: Columns = {
    "ID": lambda t: leaf(t.name),
    "ROOT": lambda t: t.root,
    "TOOK": lambda t: took(seconds(t.end_time) - seconds(t.start_time)),
    "AGE": lambda t: age(t.start_time),
}
WIDTH = 48
"""Characters of the time axis."""


@click.command()
@click.argument("trace_id", default="")
@click.option(
    "-n", "--limit", type=click.IntRange(1), default=20, show_default=True, help="How many to list."
)
@click.option("-a", "--all", "every", is_flag=True, help="Every span, also each hop through Envoy.")
@common
def trace(trace_id: str, limit: int, every: bool) -> None:
    """The newest traces, or one trace as a waterfall."""
    with connected() as client:
        if not trace_id:
            output.emit_list(client.traces.list(limit), TRACE, none="No traces yet: make a request first.")
            return
        found = client.traces.get(trace_id)
    if output.shared().output != "table":
        output.emit(found, TRACE)
    else:
        draw(found.spans, output.console(), every=every)


@click.command()
@click.argument("resource")
@click.option(
    "--direction",
    type=click.Choice(["up", "down", "both"]),
    default="both",
    show_default=True,
    help="To its sources, or to what was made of it.",
)
@common
def lineage(resource: str, direction: str) -> None:
    """What a resource came from, and what came from it: aios lineage deployments/digits."""
    if output.shared().output == OPENLINEAGE:
        with connected() as client:
            click.echo(json.dumps(client.lineage.openlineage(resource, direction), indent=2))
        return
    with connected() as client:
        edges = client.lineage.get(resource, direction)
    if output.shared().output != "table":
        output.emit_list(edges, {}, none="")
    elif not edges:
        output.notice(
            f"Nothing is known of {resource}: name it like deployments/digits or models/digits/versions/1."
        )
    else:
        output.console().print(tree(edges, resource))


OPENLINEAGE = "openlineage"
_forms = next(each for each in lineage.params if each.name == "output")
_forms.type = click.Choice([*_forms.type.choices, OPENLINEAGE])  # type: ignore[attr-defined]


def draw(spans: Iterable[Any], console: Any, *, every: bool = False) -> None:
    """Show a trace; where spans were left out, say how many."""
    ordered = list(spans)
    kept = ordered if every else essential(ordered)
    console.print(waterfall(kept))
    if len(kept) < len(ordered):
        console.print(f"{len(ordered) - len(kept)} spans more with --all.", style="dim")


def essential(spans: Sequence[Any]) -> list[Any]:
    """The spans that say where time went, as copies that hang together.

    Left out: the hops through Envoy behind the first, single calls of a job's phases, and events without effect on
    anything that follows.
    """
    by_id = {span.span_id: span for span in spans}
    dropped = {
        span.span_id for span in spans if span.service == "envoy" and _below_envoy_or_service(span, by_id)
    }

    def parent_of(span: Any) -> Any:
        above = by_id.get(span.parent_span_id)
        while above is not None and above.span_id in dropped:
            above = by_id.get(above.parent_span_id)
        return above

    parents = {
        above.span_id
        for span in spans
        if span.span_id not in dropped and (above := parent_of(span)) is not None
    }
    for span in spans:
        above = parent_of(span)
        leaf_of_job = above is not None and above.service.endswith(".job") and span.service != above.service
        if span.span_id not in parents and (leaf_of_job or span.name.startswith("consume ")):
            dropped.add(span.span_id)
    kept = []
    for span in spans:
        if span.span_id not in dropped:
            copy = type(span)()
            copy.CopyFrom(span)
            above = parent_of(span)
            copy.parent_span_id = above.span_id if above is not None else ""
            kept.append(copy)
    return kept


def waterfall(spans: Sequence[Any]) -> Any:
    """Spans as a tree with a bar each on one time axis."""
    from rich.table import Table
    from rich.text import Text

    first = min((seconds(span.start_time) for span in spans), default=0.0)
    last = max((seconds(span.end_time) for span in spans), default=0.0)
    scale = WIDTH / max(last - first, 1e-9)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("SPAN", no_wrap=True)
    table.add_column("SERVICE", no_wrap=True)
    table.add_column("TOOK", justify="right", no_wrap=True)
    table.add_column(f"0 to {took(last - first)}", no_wrap=True)
    for depth, span in nested(spans):
        begin, length = (
            seconds(span.start_time) - first,
            seconds(span.end_time) - seconds(span.start_time),
        )
        start = min(int(begin * scale), WIDTH - 1)
        bar = " " * start + "━" * max(1, min(round(length * scale), WIDTH - start))
        style = "red" if span.error else "cyan"
        label = Text("  " * depth + span.name) + Text(f"  {span.error}" if span.error else "", style="red")
        table.add_row(label, Text(span.service, style="dim"), took(length), Text(bar, style=style))
    return table


def nested(spans: Sequence[Any]) -> list[tuple[int, Any]]:
    """Depth-first order with depths. A span whose parent is not kept stands at the top."""
    known = {span.span_id for span in spans}
    children: dict[str, list[Any]] = {}
    for span in spans:
        parent = (
            span.parent_span_id
            if span.parent_span_id in known and span.parent_span_id != span.span_id
            else ""
        )
        children.setdefault(parent, []).append(span)
    result: list[tuple[int, Any]] = []
    pending = [(0, span) for span in sorted(children.get("", []), key=_start, reverse=True)]
    while pending:
        depth, span = pending.pop()
        result.append((depth, span))
        below = sorted(children.pop(span.span_id, []), key=_start, reverse=True) if span.span_id else []
        pending.extend((depth + 1, child) for child in below)
    return result


def tree(edges: Iterable[Any], resource: str) -> Any:
    """The graph as a tree of what was made from what, the resource marked."""
    from rich.text import Text
    from rich.tree import Tree

    sources: dict[str, list[tuple[str, str]]] = {}
    names: list[str] = []
    for edge in edges:
        sources.setdefault(edge.target, []).append((edge.relation, edge.source))
        names += [edge.target, edge.source]
    used = {source for found in sources.values() for _, source in found}
    ends = [name for name in dict.fromkeys(names) if name not in used]

    def label(name: str, relation: str = "") -> Text:
        marked = short(name) == short(resource)
        text = Text(short(name), style="bold" if marked else "")
        return text + Text(f"  {relation}", style="dim") if relation else text

    def grow(branch: Tree, name: str, path: frozenset[str]) -> None:
        for relation, source in sources.get(name, ()):
            if source not in path:
                grow(branch.add(label(source, relation)), source, path | {source})

    root = Tree(Text("made from, downwards", style="dim"), hide_root=len(ends) == 1)
    for end in ends:
        grow(root.add(label(end)), end, frozenset({end}))
    return root


def seconds(stamp: Any) -> float:
    """A Timestamp as seconds since 1970."""
    return float(stamp.seconds) + float(stamp.nanos) / 1e9


def took(length: float) -> str:
    """A length of time, in the unit that fits."""
    if length < 0.001:
        return f"{length * 1e6:.0f} µs"
    if length < 1:
        return f"{length * 1000:.1f} ms"
    return f"{length:.2f} s"


def _below_envoy_or_service(span: Any, by_id: Mapping[str, Any]) -> bool:
    """Not the first span of its trace, nor the egress that shows where the first one went."""
    above = by_id.get(span.parent_span_id)
    return above is not None and not (above.service == "envoy" and above.parent_span_id not in by_id)


def _start(span: Any) -> float:
    return seconds(span.start_time)
