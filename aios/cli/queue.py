"""`aios queue`."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import click

from aios.cli import bars, output
from aios.cli.output import Columns, Noun, common, connected, leaf
from aios.common.v1 import resources_pb2
from aios.scheduler.v1 import queue_pb2
from aios.scheduling import DEVICE_MILLIS, is_device

QUEUE: Columns = {
    "NAME": lambda q: leaf(q.name),
    "PART OF": lambda q: leaf(q.parent),
    "WEIGHT": lambda q: f"{q.weight:g}",
    "USED": lambda q: bars.listed(bars.named(q.usage.used)),
    "NOMINAL": lambda q: bars.listed(bars.named(q.nominal)),
    "BORROWED": lambda q: bars.listed(bars.named(q.usage.borrowed)),
    "LIMIT": lambda q: bars.listed(bars.named(q.limit)),
    "LENDS": lambda q: bars.listed(bars.named(q.lending_limit)),
    "PENDING": lambda q: bars.listed(bars.named(q.usage.pending)),
    "RUN/WAIT": lambda q: f"{q.usage.running_jobs}/{q.usage.pending_jobs}",
    "PROJECTS": lambda q: " ".join(map(leaf, q.projects)),
}
TREE = (
    "QUEUE",
    "WEIGHT",
    "RUN/WAIT",
    "RESOURCE",
    "OF THE POOL",
    "USED",
    "NOMINAL",
    "BORROWED",
    "LIMIT",
    "PENDING",
)


def parts(command: Callable[..., Any]) -> Callable[..., Any]:
    """What a queue is made of, as options."""
    amounts = "RESOURCE=AMOUNT"
    options = (
        click.option("--parent", help="Queue that it is part of."),
        click.option("--weight", type=float, help="Of what is contended among its siblings [1]."),
        click.option(
            "--nominal", multiple=True, metavar=amounts, help="What is its own: gpu=4, cpu=8, memory=64GiB."
        ),
        click.option("--limit", multiple=True, metavar=amounts, help="The most it may use, borrowed or not."),
        click.option(
            "--lending",
            multiple=True,
            metavar=amounts,
            help="How much of its own others may use while it is idle.",
        ),
        click.option(
            "--use", "projects", multiple=True, metavar="PROJECT", help="A project whose jobs may name it."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


class Queues(Noun):
    """Without a verb the tree."""

    without_a_verb = "tree"


@click.group(cls=Queues)
def queue() -> None:
    """How the pool is divided among projects: quotas, weights, and what is lent.

    Every project has a queue of its own name. What is made here gives it a share: `nominal` is its own, beyond it
    borrows up to `limit`, and others use what it leaves idle up to `lending`.
    """


@queue.command("list")
@click.option(
    "-n", "--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many."
)
@common
def list_queues(limit: int) -> None:
    """The queues that you may use, and those above them."""
    with connected() as client:
        output.emit_list(
            client.queues.list(limit),
            QUEUE,
            none="No queue but each project's own: `aios queue create` makes one.",
        )


@queue.command("get")
@click.argument("name")
@common
def get_queue(name: str) -> None:
    """One queue."""
    with connected() as client:
        output.emit(client.queues.get(name), QUEUE)


@queue.command("create")
@click.argument("name")
@parts
@common
def create_queue(name: str, **given: Any) -> None:
    """Make a queue. Operators only."""
    with connected() as client:
        output.emit(client.queues.create(name, _queue(given)[0]), QUEUE)


@queue.command("update")
@click.argument("name")
@parts
@common
def update_queue(name: str, **given: Any) -> None:
    """Change what is named of a queue, and leave the rest. An empty text takes a value away. Operators only."""
    wanted, fields = _queue(given)
    if not fields:
        raise click.UsageError("Say what to change: --limit, --weight ...")
    with connected() as client:
        output.emit(client.queues.update(name, wanted, fields), QUEUE)


@queue.command("delete")
@click.argument("name")
@common
def delete_queue(name: str) -> None:
    """Remove a queue. Operators only."""
    with connected() as client:
        client.queues.delete(name)
    output.notice(f"{name} is gone.")


@queue.command("tree")
@common
def show_tree(**_: Any) -> None:
    """The queues as a tree: what each uses, owns, borrows and waits for, and of the pool how much that is."""
    with connected() as client:
        found = list(client.queues.list())
        total: dict[str, float] = {}
        for node in client.jobs.nodes():
            if node.state == node.STATE_READY:
                for name, amount in bars.named(node.capacity).items():
                    total[name] = total.get(name, 0) + amount
    if not found and output.shared().output == "table":
        output.notice("No queue but each project's own: `aios queue create` makes one.")
        return
    output.emit_data([output.to_data(each) for each in found], list(tree_rows(found, total)), TREE)


def tree_rows(queues: Iterable[queue_pb2.Queue], total: Mapping[str, float]) -> Iterator[tuple[str, ...]]:
    """A line for each queue and resource that something is to be said of."""
    below: dict[str, list[queue_pb2.Queue]] = {}
    known = {each.name: each for each in queues}
    for each in known.values():
        below.setdefault(each.parent if each.parent in known else "", []).append(each)

    def rows(name: str, indent: str) -> Iterator[tuple[str, ...]]:
        under = below.get(name, [])
        for number, each in enumerate(under):
            last = number == len(under) - 1
            branch, carry = ("└─ ", "   ") if last else ("├─ ", "│  ")
            top = not name
            yield from _lines(each, "" if top else indent + branch, "" if top else indent + carry, total)
            yield from rows(each.name, "" if top else indent + carry)

    yield from rows("", "")


def _lines(
    each: queue_pb2.Queue, lead: str, carry: str, total: Mapping[str, float]
) -> Iterator[tuple[str, ...]]:
    usage = each.usage
    parts = [usage.used, each.nominal, usage.borrowed, each.limit, usage.pending]
    used, nominal, *_ = tables = [bars.named(part) for part in parts]
    names = list(dict.fromkeys(name for table in tables for name in table))
    jobs = f"{usage.running_jobs}/{usage.pending_jobs}"
    if not names:
        yield lead + leaf(each.name), f"{each.weight:g}", jobs, *("",) * 7
    for number, name in enumerate(names):
        whole = max(1, bars.family(total, name))
        # `gpu` is used as the types that serve it.
        has = bars.family(used, name)
        drawn = bars.bar(has / whole, nominal.get(name, 0) / whole)
        head = (lead + leaf(each.name), f"{each.weight:g}", jobs) if number == 0 else (carry, "", "")
        figures = [has, *(table.get(name) for table in tables[1:])]
        yield *head, name, drawn, *("" if n is None else bars.figure(name, n) for n in figures)


def _queue(given: Mapping[str, Any]) -> tuple[queue_pb2.Queue, list[str]]:
    """A queue of what was given on the command line, and which fields that were."""
    made = queue_pb2.Queue(weight=given["weight"] or 0.0)
    if given["parent"]:
        made.parent = f"queues/{leaf(given['parent'])}"
    made.projects.extend(f"projects/{leaf(project)}" for project in given["projects"] if project)
    for field, option in (("nominal", "nominal"), ("limit", "limit"), ("lending_limit", "lending")):
        getattr(made, field).CopyFrom(_amounts(option, given[option]))
    fields = {
        "parent": given["parent"] is not None,
        "weight": given["weight"] is not None,
        "nominal": bool(given["nominal"]),
        "limit": bool(given["limit"]),
        "lending_limit": bool(given["lending"]),
        "projects": bool(given["projects"]),
    }
    return made, [name for name, said in fields.items() if said]


def _amounts(option: str, texts: Iterable[str]) -> resources_pb2.Resources:
    from aios.client.runspec import amount

    found = resources_pb2.Resources()
    for text in (part for each in texts for part in each.split(",") if part):
        name, equals, value = text.partition("=")
        if not equals:
            raise click.BadParameter(
                f"must look like gpu=4 or memory=64GiB, not {text!r}", param_hint=f"--{option}"
            )
        if name == "cpu":
            found.cpu_millis = amount(value, option, 1000)
        elif name == "memory":
            found.memory_bytes = amount(value, option)
        elif not is_device(name):
            found.budgets[name] = amount(value, option)
        else:
            whole, millis = divmod(amount(value, option, DEVICE_MILLIS), DEVICE_MILLIS)
            found.accelerators[name] = whole
            if millis:
                found.accelerator_millis[name] = millis
    return found
