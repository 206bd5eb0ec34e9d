"""`aios dataset`: push, import, pull, checkout, list, get, show, versions, diff, log, branch, tag, rm."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from aios.cli import output
from aios.cli.output import Columns, Noun, age, common, connected, leaf, short, size
from aios.cli.progress import Transfer

if TYPE_CHECKING:
    from aios.client import Client

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
CHANGE: Columns = {
    "": lambda c: "+" if not c.HasField("before") else "-" if not c.HasField("after") else "~",
    "FILE": lambda c: c.path,
    "BEFORE": lambda c: size(c.before.size_bytes) if c.HasField("before") else "",
    "AFTER": lambda c: size(c.after.size_bytes) if c.HasField("after") else "",
}
ENTRY: Columns = {
    "": lambda e: e.sequence,
    "CHANGE": lambda e: e.type,
    "REF": lambda e: e.ref,
    "VERSION": lambda e: leaf(e.version),
    "MESSAGE": lambda e: e.message,
    "CREATOR": lambda e: e.creator,
    "AGE": lambda e: age(e.create_time),
}
REFS: Columns = {
    "NAME": lambda d: leaf(d.name),
    "BRANCHES": lambda d: " ".join(f"@{ref}={version}" for ref, version in sorted(d.branches.items())),
    "TAGS": lambda d: " ".join(f"@{ref}={version}" for ref, version in sorted(d.tags.items())),
}
DELETION: Columns = {
    "FREES": lambda d: size(d.freed_bytes),
    "BLOBS": lambda d: d.freed_blobs,
    "SHARED": lambda d: size(d.shared_bytes),
    "PURGED": lambda d: d.purge_time.ToJsonString(),
}
DETAILS: Columns = {**VERSION, "PRIVACY": lambda v: " ".join(v.origin.privacy)}
FIRST = "No datasets yet: `aios dataset push NAME DIRECTORY` makes one."


@click.group(cls=Noun)
def dataset() -> None:
    """Datasets: versions of files, known by their content."""


@dataset.command()
@click.argument("name")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option("-m", "--message", default="", help="Why this version was made.")
@click.option("-b", "--branch", default="", help="Branch to commit to; `main`, or that of the checkout.")
@click.option("--scan", is_flag=True, help="Look for personal data in it, by a job: see `aios dataset show`.")
@common
def push(name: str, source: Path, message: str, branch: str, scan: bool) -> None:
    """Store a file or directory as the next version of NAME.

    Content that is already stored is not sent again, so a push that was cut off goes on where it was. A directory that
    `checkout` made is committed on top of the version that it was: what others changed since stays.
    """
    with connected() as client, Transfer() as transfer:
        version = client.datasets.push(name, source, message=message, branch=branch, progress=transfer.report)
        if scan:
            _scan(client, version.name)
    output.emit(version, VERSION)


@dataset.command("import")
@click.argument("name")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option(
    "-f", "--format", "format_", default="", help="csv, jsonl, images …; found from SOURCE otherwise."
)
@click.option("-m", "--message", default="", help="Why this version was made.")
@click.option("--scan", is_flag=True, help="Look for personal data in it, by a job: see `aios dataset show`.")
@common
def import_(name: str, source: Path, format_: str, message: str, scan: bool) -> None:
    """Make the records of a file or folder into shards that train fast, as the next version of NAME.

    Takes CSV, TSV, JSON lines, Parquet, Arrow, a folder of images by class, IDX (MNIST) and WebDataset tar.
    """
    import tempfile

    from aios.formats import import_shards

    with tempfile.TemporaryDirectory(prefix="aios-import-") as scratch:
        import_shards(source, Path(scratch), format_)
        with connected() as client, Transfer() as transfer:
            version = client.datasets.push(name, Path(scratch), message=message, progress=transfer.report)
            if scan:
                _scan(client, version.name)
    output.emit(version, VERSION)


@dataset.command()
@click.argument("name")
@click.argument("destination", type=click.Path(file_okay=False, path_type=Path))
@common
def pull(name: str, destination: Path) -> None:
    """Fetch the files of NAME, or of one version NAME/VERSION or NAME/@REF, into a directory.

    Files that are there with the right content are not fetched again.
    """
    with connected() as client, Transfer() as transfer:
        files = client.datasets.pull(name, destination, progress=transfer.report)
    output.emit_data([str(file) for file in files], [[file] for file in files])


@dataset.command()
@click.argument("name")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@common
def checkout(name: str, directory: Path) -> None:
    """Make a directory hold exactly one version of NAME, to be changed and pushed.

    What was changed in it and not pushed is lost.
    """
    with connected() as client, Transfer() as transfer:
        version = client.datasets.checkout(name, directory, progress=transfer.report)
    output.emit(version, VERSION)


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
    output.emit(version, DETAILS)
    if output.shared().output == "table" and version.index_sha256:
        output.notice(
            "Its files are in an index: `aios dataset pull` fetches them, `aios dataset diff` compares them."
        )
    elif output.shared().output == "table":
        output.table(
            [[file.path, size(file.size_bytes), file.sha256] for file in version.files],
            ["FILE", "SIZE", "SHA-256"],
        )


@dataset.command()
@click.argument("name")
@click.option(
    "--page",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Put the report with its plots into a file.",
)
@common
def show(name: str, page: Path | None) -> None:
    """What is in NAME, or in one version NAME/VERSION, as its newest profile and search for personal data say it."""
    from aios.cli.transform import report
    from aios.errors import NotFound

    with connected() as client:
        version = client.datasets.version(name).name
        profile, scanned = (client.transforms.newest(kind, version) for kind in ("profile", "pii"))
        if not profile and not scanned:
            raise NotFound(
                f"{short(version)} has not been looked at: `aios transform submit profile {name} {name}-profile`.",
                reason="NO_REPORT",
            )
        if profile:
            report(client, profile, page)
        if scanned:
            report(client, scanned, None if profile else page)


@dataset.command()
@click.argument("name")
@common
def versions(name: str) -> None:
    """The versions of a dataset, newest first."""
    with connected() as client:
        output.emit_list(client.datasets.versions(name), VERSION, none="No version yet.")


@dataset.command()
@click.argument("name")
@click.argument("base", default="")
@common
def diff(name: str, base: str) -> None:
    """What changed in NAME/VERSION since its parent, or since another version BASE, such as NAME/@v1."""
    with connected() as client:
        output.emit_list(client.datasets.diff(name, base), CHANGE, none="No file differs.")


@dataset.command()
@click.argument("name")
@click.option("-n", "--limit", type=click.IntRange(1), default=50, show_default=True, help="How many lines.")
@common
def log(name: str, limit: int) -> None:
    """Everything that happened to NAME, newest first."""
    with connected() as client:
        output.emit_list(client.datasets.log(name, limit), ENTRY, none="Nothing yet.")


@dataset.command()
@click.argument("name")
@click.argument("ref")
@click.option("-d", "--delete", is_flag=True, help="Remove the branch; its versions stay.")
@common
def branch(name: str, ref: str, delete: bool) -> None:
    """Make a branch REF at NAME, or at one version NAME/VERSION: aios dataset branch digits/@v1 try."""
    _ref(name, ref, tag=False, delete=delete)


@dataset.command()
@click.argument("name")
@click.argument("ref")
@click.option("-d", "--delete", is_flag=True, help="Remove the tag; its version stays.")
@common
def tag(name: str, ref: str, delete: bool) -> None:
    """Give NAME, or one version NAME/VERSION, a lasting name: aios dataset tag digits v1."""
    _ref(name, ref, tag=True, delete=delete)


@dataset.command()
@click.argument("name")
@click.option("-n", "--dry-run", is_flag=True, help="Say what that would free, and delete nothing.")
@common
def delete(name: str, dry_run: bool) -> None:
    """Delete NAME with all versions, or one version NAME/VERSION that no branch or tag names.

    Content that other versions share stays; the rest is deleted from the object store after a time of grace.
    """
    with connected() as client:
        output.emit(client.datasets.delete(name, dry_run=dry_run), DELETION)


def _scan(client: "Client", version: str) -> None:
    """Have a version looked through for personal data; the findings are a version of `{dataset}-pii`."""
    made = client.transforms.submit("pii", version, f"{version.split('/')[3][:59]}-pii")
    output.notice(f"Looked through by {leaf(made.name)}: `aios transform get {leaf(made.name)}`.")


def _ref(name: str, ref: str, *, tag: bool, delete: bool) -> None:
    with connected() as client:
        if delete:
            changed = client.datasets.delete_ref(name, ref)
        else:
            changed = client.datasets.set_ref(name, ref, tag=tag)
    output.emit(changed, REFS)
