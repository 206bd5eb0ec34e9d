"""`aios label`: from create and add over next, submit and review to report and export."""

from pathlib import Path
from typing import Any

import click

from aios.cli import output
from aios.cli.annotate_views import ANNOTATOR, FIGURES, LEASE, PROJECT, TASK, VERSION, kind_of, parse
from aios.cli.output import Noun, common, connected

KINDS = ("classification", "multi_label", "spans", "boxes", "polygons", "keypoints")
STATES = ("open", "labelled", "disputed", "reviewed", "accepted")
FORMATS = ("csv", "jsonl", "label-studio", "coco", "yolo", "conll")
STRATEGIES = ("entropy", "margin", "least-confidence", "k-center", "k-means")


@click.group(cls=Noun)
def label() -> None:
    """Labels by people: projects over a dataset version, tasks, reviews, exports."""


@label.command()
@click.argument("name")
@click.argument("dataset")
@click.option(
    "-k",
    "--kind",
    type=click.Choice(KINDS),
    default=KINDS[0],
    show_default=True,
    help="What people say of an item.",
)
@click.option("-l", "--label", "labels", multiple=True, required=True, help="A class; repeat it.")
@click.option(
    "--overlap", type=click.IntRange(1, 10), default=1, show_default=True, help="People for each item."
)
@click.option("--agreement", type=click.FloatRange(0, 1), default=0.0, help="Below it a task is disputed.")
@click.option("--accept-agreed", is_flag=True, help="Accept agreed labels without a reviewer.")
@click.option(
    "--gold-every", type=click.IntRange(0), default=0, help="Every so many tasks, one with a known label."
)
@click.option("--instructions", default="", help="What people are told to do.")
@common
def create(
    name: str,
    dataset: str,
    kind: str,
    labels: tuple[str, ...],
    overlap: int,
    agreement: float,
    accept_agreed: bool,
    gold_every: int,
    instructions: str,
) -> None:
    """Make a label project NAME over DATASET, or over one version DATASET/VERSION."""
    with connected() as client:
        made = client.labels.create(
            name,
            dataset,
            kind,
            labels,
            overlap=overlap,
            agreement_min=agreement,
            accept_agreed=accept_agreed,
            gold_every=gold_every,
            instructions=instructions,
        )
    output.emit(made, PROJECT)


@label.command("list")
@common
def list_() -> None:
    """The project's label projects."""
    with connected() as client:
        output.emit_list(
            client.labels.list(), PROJECT, none="No label projects yet: `aios label create` makes one."
        )


@label.command()
@click.argument("name")
@common
def get(name: str) -> None:
    """One label project with its progress."""
    with connected() as client:
        output.emit(client.labels.get(name), PROJECT)


@label.command()
@click.argument("name")
@click.argument("pattern", default="*")
@click.option("--files", is_flag=True, help="Take tables as files, not row by row.")
@click.option("-n", "--limit", type=click.IntRange(1), help="At most so many items.")
@click.option("--gold", default="", help="Column with the right label, where it is known.")
@common
def add(name: str, pattern: str, files: bool, limit: int | None, gold: str) -> None:
    """Add items of the version: rows of its tables, or files, whose path matches PATTERN."""
    with connected() as client:
        added = client.labels.add(name, pattern, rows=not files, limit=limit, gold=gold)
    output.emit_data({"added": added}, [["added", added]])


@label.command()
@click.argument("name")
@click.option(
    "-s", "--state", "states", type=click.Choice(STATES), multiple=True, help="Only these; repeat it."
)
@click.option("-n", "--limit", type=click.IntRange(1), default=50, show_default=True, help="How many.")
@common
def tasks(name: str, states: tuple[str, ...], limit: int) -> None:
    """Tasks with what people said, by number."""
    with connected() as client:
        output.emit_list(
            client.labels.tasks(name, states, limit), TASK, none="No such task: `aios label add`."
        )


@label.command("next")
@click.argument("name")
@click.option(
    "-n", "--count", type=click.IntRange(1, 20), default=1, show_default=True, help="How many tasks."
)
@common
def next_(name: str, count: int) -> None:
    """Take the next tasks for yourself: what you have already comes first."""
    with connected() as client:
        output.emit_list(client.labels.lease(name, count), LEASE, none="Nothing is left for you to label.")


@label.command()
@click.argument("task")
@click.argument("fence", type=int)
@click.argument("value")
@common
def submit(task: str, fence: int, value: str) -> None:
    """Label TASK, NAME/NUMBER, that you have: VALUE is a class, or JSON for other kinds."""
    with connected() as client:
        project = client.labels.get(task.rpartition("/")[0])
        client.labels.submit(task, fence, parse(value, kind_of(project)))


@label.command()
@click.argument("task")
@click.argument("fence", type=int)
@click.argument("reason")
@common
def skip(task: str, fence: int, reason: str) -> None:
    """Give TASK back without a label, and say why."""
    with connected() as client:
        client.labels.submit(task, fence, None, reason)


@label.command()
@click.argument("task")
@click.argument("verdict", type=click.Choice(["accept", "correct", "reopen"]))
@click.argument("value", default="")
@common
def review(task: str, verdict: str, value: str) -> None:
    """Decide on TASK: accept its label, correct it to VALUE, or reopen the task for everybody."""
    with connected() as client:
        project = client.labels.get(task.rpartition("/")[0])
        given = parse(value, kind_of(project)) if value else None
        output.emit(client.labels.review(task, verdict, given), TASK)


@label.command()
@click.argument("name")
@click.argument("deployment")
@click.option(
    "-c", "--column", "columns", multiple=True, help="That the model takes, in its order; repeat it."
)
@common
def prelabel(name: str, deployment: str, columns: tuple[str, ...]) -> None:
    """Propose labels for open tasks, rows of tables, by a deployed model of their columns of numbers."""
    with connected() as client:
        count = client.labels.prelabel(name, deployment, columns)
    output.emit_data({"proposed": count}, [["proposed", count]])


@label.command()
@click.argument("name")
@click.argument("strategy", type=click.Choice(STRATEGIES))
@click.option(
    "-n", "--count", type=click.IntRange(1), default=100, show_default=True, help="For k-center and k-means."
)
@click.option("--seed", type=int, default=0, show_default=True, help="For k-means.")
@common
def rank(name: str, strategy: str, count: int, seed: int) -> None:
    """Put those open tasks first that a model would learn most from."""
    with connected() as client:
        ranked = client.labels.rank(name, strategy, count, seed)
    output.emit_data({"ranked": ranked}, [["ranked", ranked]])


@label.command()
@click.argument("name")
@click.option(
    "--method",
    type=click.Choice(["majority", "dawid-skene"]),
    default="majority",
    show_default=True,
    help="Whom to believe: most people, or each by how often they are right.",
)
@click.option("--accept", type=click.FloatRange(0, 1), help="Accept from this confidence on.")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be settled, and settle nothing.")
@common
def resolve(name: str, method: str, accept: float | None, dry_run: bool) -> None:
    """Settle what people said of labelled and disputed tasks."""
    with connected() as client:
        done = client.labels.resolve(name, method, accept, dry_run=dry_run)
    output.emit(done, {"RESOLVED": lambda d: d.resolved, "ACCEPTED": lambda d: d.accepted})


@label.command()
@click.argument("name")
@click.option(
    "--level",
    type=click.Choice(["nominal", "ordinal", "interval", "ratio"]),
    default="nominal",
    show_default=True,
    help="How far apart two labels are.",
)
@common
def report(name: str, level: str) -> None:
    """Progress, agreement beyond chance, and each annotator."""
    with connected() as client:
        found: Any = client.labels.report(name, level)
    if output.shared().output != "table":
        output.emit(found, {})
        return
    output.emit(found.label_project, PROJECT)
    output.table(
        [[figure, f"{getattr(found, figure):.4f}"] for figure in FIGURES if found.HasField(figure)],
        ["FIGURE", ""],
    )
    output.emit_list(found.annotators, ANNOTATOR, none="Nobody has said anything yet.")


@label.command("import")
@click.argument("name")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option("-f", "--format", "format_", type=click.Choice(FORMATS), required=True, help="Of SOURCE.")
@click.option(
    "--annotator", default="import", show_default=True, help="Who said it, where the file does not say."
)
@common
def import_(name: str, source: Path, format_: str, annotator: str) -> None:
    """Add labels that were made elsewhere, for items of the version."""
    with connected() as client:
        added, annotated = client.labels.import_labels(name, format_, source, annotator)
    output.emit_data({"added": added, "annotated": annotated}, [["tasks", added], ["labels", annotated]])


@label.command()
@click.argument("name")
@click.option(
    "-f",
    "--format",
    "format_",
    type=click.Choice(("table", "folders", *FORMATS)),
    default="table",
    show_default=True,
    help="What is made.",
)
@click.option("-d", "--dataset", default="", help="Make a version of this dataset.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write files here instead; not `table`.",
)
@click.option("-m", "--message", default="", help="Why this version was made.")
@common
def export(name: str, format_: str, dataset: str, out: Path | None, message: str) -> None:
    """Make a dataset version of the accepted labels, or files that other tools read."""
    if bool(dataset) == bool(out):
        raise click.UsageError("Give --dataset, or --out.")
    with connected() as client:
        if out is None:
            output.emit(client.labels.export_version(name, dataset, format_, message), VERSION)
            return
        files = client.labels.export(name, format_, out)
    output.emit_data([str(file) for file in files], [[file] for file in files])


@label.command()
@click.argument("name")
@common
def delete(name: str) -> None:
    """Delete a label project with everything said in it. Versions made from it stay."""
    with connected() as client:
        client.labels.delete(name)
    output.notice(f"Deleted {name}.")
