"""`aios dataset`: push, import, export, pull, checkout, list, get, show, versions, diff, log, branch, tag, delete, erase."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from aios.cli import output
from aios.cli.output import Columns, Noun, age, common, connected, leaf, short, size
from aios.cli.progress import Transfer

if TYPE_CHECKING:
    from aios.client import Client
    from aios.client.erasure import Erased

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
@click.argument("source")
@click.option(
    "-f", "--format", "format_", default="", help="csv, jsonl, images …; found from SOURCE otherwise."
)
@click.option("-m", "--message", default="", help="Why this version was made.")
@click.option("--s3-region", default="us-east-1", show_default=True, help="Where an s3:// bucket lies.")
@click.option("--s3-endpoint", default="", help="Another S3 server than Amazon's: https://s3.example.org.")
@click.option(
    "--s3-credentials",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON with `access_key` and `secret_key`; without it, what is public can be read.",
)
@click.option("--scan", is_flag=True, help="Look for personal data in it, by a job: see `aios dataset show`.")
@common
def import_(
    name: str,
    source: str,
    format_: str,
    message: str,
    s3_region: str,
    s3_endpoint: str,
    s3_credentials: Path | None,
    scan: bool,
) -> None:
    """Make the records of a file or folder into shards that train fast, as the next version of NAME.

    Takes CSV, TSV, JSON lines, Parquet, Arrow, a folder of images by class, COCO, a folder that Hugging Face `datasets`
    saved, IDX (MNIST) and WebDataset tar; also behind https:// and s3://, where the host must be a public one.
    """
    import tempfile

    from aios.blobs.presign import Credentials
    from aios.formats import import_shards
    from aios.formats.remote import Bucket, Fetcher, is_remote

    with tempfile.TemporaryDirectory(prefix="aios-import-") as folder:
        scratch = Path(folder, "shards")
        if is_remote(source):
            keys = Credentials.load(s3_credentials) if s3_credentials else None
            fetched = Path(folder, "fetched")
            fetched.mkdir()
            found = Fetcher().fetch(source, fetched, Bucket(s3_endpoint, s3_region, keys))
        elif not (found := Path(source)).exists():
            raise click.UsageError(f"No file or folder {source!r}.")
        import_shards(found, scratch, format_)
        with connected() as client, Transfer() as transfer:
            version = client.datasets.push(name, scratch, message=message, progress=transfer.report)
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
@click.option(
    "-f",
    "--format",
    "format_",
    type=click.Choice(["coco", "huggingface"]),
    required=True,
    help="What is written.",
)
@common
def export(name: str, directory: Path, format_: str) -> None:
    """Write the records of NAME, or of one version, into an empty DIRECTORY in a format that other tools read.

    coco takes images; huggingface is what `datasets.load_from_disk` reads.
    """
    import tempfile

    from aios.formats import export_shards

    if directory.exists() and any(directory.iterdir()):
        raise click.UsageError(f"{str(directory)!r} is not empty.")
    with tempfile.TemporaryDirectory(prefix="aios-export-") as scratch:
        with connected() as client, Transfer() as transfer:
            files = client.datasets.pull(name, scratch, progress=transfer.report)
        export_shards(files, directory, format_)
    made = sorted(str(each.relative_to(directory)) for each in directory.rglob("*") if each.is_file())
    output.emit_data(
        {"directory": str(directory), "files": len(made)}, [[str(directory), f"{len(made)} files"]]
    )


@dataset.command()
@click.argument("name")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Give up what was changed in DIRECTORY and not pushed.")
@common
def checkout(name: str, directory: Path, force: bool) -> None:
    """Make a directory hold exactly one version of NAME, to be changed and pushed.

    Refused where something was changed in it and not pushed.
    """
    with connected() as client, Transfer() as transfer:
        version = client.datasets.checkout(name, directory, force=force, progress=transfer.report)
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


@dataset.command()
@click.argument("name")
@click.option(
    "-w", "--where", multiple=True, metavar="COLUMN=VALUE", help="Rows with this value; may be repeated."
)
@click.option(
    "--ids-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Rows whose --column has one of these values, a line each.",
)
@click.option("--column", default="", help="Column that the values of --ids-file are of.")
@click.option(
    "-f", "--file", "files", multiple=True, metavar="PATTERN", help="Whole files, such as 'faces/17_*'."
)
@click.option("--reason", default="", help="Why, for the log. Name nobody in it.")
@click.option("-n", "--dry-run", is_flag=True, help="Say which versions hold it, and change nothing.")
@common
def erase(
    name: str,
    where: tuple[str, ...],
    ids_file: Path | None,
    column: str,
    files: tuple[str, ...],
    reason: str,
    dry_run: bool,
) -> None:
    """Forget rows or files of NAME, in every version: aios dataset erase people -w email=ada@example.org

    Versions that branches and tags name are made again without them. Every version that held them is removed, and its
    bytes are collected when the time of grace ends. Says what was made from those versions.
    """
    values: dict[str, set[str]] = {}
    for each in where:
        key, sign, value = each.partition("=")
        if not sign or not key:
            raise click.UsageError(f"--where takes COLUMN=VALUE, not {each!r}.")
        values.setdefault(key, set()).add(value)
    if (ids_file is None) != (not column):
        raise click.UsageError("--ids-file and --column go together.")
    if ids_file is not None:
        lines = ids_file.read_text(encoding="utf-8").splitlines()
        values.setdefault(column, set()).update(line.strip() for line in lines if line.strip())
    if not any(values.values()) and not files:
        raise click.UsageError("Say what is to go: --where, --ids-file or --file.")
    with connected() as client, Transfer() as transfer:
        erased = client.datasets.erase(
            name, values, files, reason=reason, dry_run=dry_run, progress=transfer.report
        )
    _show_erased(erased, dry_run)


def _show_erased(erased: "Erased", dry_run: bool) -> None:
    told = erased.erasure
    data = {
        "rows": erased.rows,
        "versions": list(told.versions),
        "replacements": dict(erased.replacements),
        "derived": list(told.derived),
        "holders": list(told.holders),
        "unsearched": list(erased.unsearched),
        "freed_bytes": told.deletion.freed_bytes,
        "purge_time": told.deletion.purge_time.ToJsonString() if not dry_run and told.versions else "",
    }
    lines: list[list[object]] = [
        ["rows", erased.rows],
        ["freed", size(told.deletion.freed_bytes)],
        ["collected", data["purge_time"]],
    ]
    for what, names in (("versions", told.versions), ("derived", told.derived), ("holders", told.holders)):
        lines += [[what if number == 0 else "", short(each)] for number, each in enumerate(names)]
    lines += [["replaced", f"{short(old)} by {short(new)}"] for old, new in erased.replacements.items()]
    output.emit_data(data, lines)
    if output.shared().output != "table":
        return
    if erased.unsearched:
        some = ", ".join(erased.unsearched[:3])
        output.notice(
            f"{len(erased.unsearched)} files have no rows that are known, such as {some}: see --file."
        )
    if told.holders:
        output.notice("The holders need the same content: it stays until they are gone too.")
    if told.derived:
        output.notice("What was made from those versions may still know it: look at each under `derived`.")


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
