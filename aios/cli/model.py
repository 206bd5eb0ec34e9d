"""`aios model`: list, get, versions, register, alias, log, pull, export, delete, assess."""

import json
from pathlib import Path

import click

from aios.cli import output
from aios.cli.output import Columns, Noun, age, common, connected, figure, leaf, short, size
from aios.cli.progress import Transfer

MODEL: Columns = {
    "NAME": lambda m: leaf(m.name),
    "LATEST": lambda m: leaf(m.latest_version),
    "ALIASES": lambda m: " ".join(f"@{alias}={version}" for alias, version in sorted(m.aliases.items())),
    "AGE": lambda m: age(m.create_time),
}
VERSION: Columns = {
    "VERSION": lambda v: short(v.name),
    "METRICS": lambda v: " ".join(f"{key}={figure(value)}" for key, value in sorted(v.metrics.items())),
    "SIZE": lambda v: size(v.size_bytes),
    "RUN": lambda v: short(v.run),
    "REJECTED": lambda v: v.rejected,
    "AGE": lambda v: age(v.create_time),
}
PROMOTION: Columns = {
    "": lambda e: e.sequence,
    "CHANGE": lambda e: e.type,
    "ALIAS": lambda e: e.ref and f"@{e.ref}",
    "VERSION": lambda e: leaf(e.version),
    "CREATOR": lambda e: e.creator,
    "AGE": lambda e: age(e.create_time),
}
DELETION: Columns = {
    "FREES": lambda d: size(d.freed_bytes),
    "BLOBS": lambda d: d.freed_blobs,
    "SHARED": lambda d: size(d.shared_bytes),
    "PURGED": lambda d: d.purge_time.ToJsonString(),
}


@click.group(cls=Noun)
def model() -> None:
    """The model registry."""


@model.command("list")
@common
def list_() -> None:
    """The project's models."""
    with connected() as client:
        output.emit_list(
            client.models.list(), MODEL, none="No models yet: a run with `model:` in its run.yaml makes one."
        )


@model.command()
@click.argument("name")
@common
def get(name: str) -> None:
    """One model, or one version: NAME/3, NAME/latest, NAME/@alias."""
    with connected() as client:
        if "/" not in name.removeprefix("models/"):
            output.emit(client.models.get(name), MODEL)
            return
        version = client.models.version(name)
    output.emit(version, VERSION)
    if output.shared().output == "table":
        tensors = [("in", each) for each in version.signature.inputs] + [
            ("out", each) for each in version.signature.outputs
        ]
        output.table(
            [[way, each.name, each.datatype, list(each.shape)] for way, each in tensors],
            ["", "TENSOR", "TYPE", "SHAPE"],
        )
        output.table(
            [[file.path, size(file.size_bytes), file.sha256] for file in version.files],
            ["FILE", "SIZE", "SHA-256"],
        )


@model.command()
@click.argument("version")
@click.option(
    "--html", type=click.Path(dir_okay=False, path_type=Path), help="Write it to this file as a page."
)
@common
def card(version: str, html: Path | None) -> None:
    """What people should know before they use VERSION: what it is of, how good it is, where it fails."""
    from aios.cli import cards

    with connected() as client:
        found = client.models.version(version)
        assessed = client.runs.assessed(found.name)
    text = cards.whole(found, assessed)
    if html is None:
        click.echo(text, nl=False)
        return
    html.write_text(cards.page(short(found.name), text))
    output.notice(f"Written to {html}.")


@model.command()
@click.argument("name")
@common
def versions(name: str) -> None:
    """The versions of a model, newest first."""
    with connected() as client:
        output.emit_list(client.models.versions(name), VERSION, none="No version yet.")


@model.command()
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.argument("name")
@click.option(
    "--signature", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON of what it takes and gives; a language model's directory says it by itself.",
)  # fmt: skip
@common
def register(source: Path, name: str, signature: Path | None) -> None:
    """Store SOURCE, a file or a directory, as the next version of the model NAME.

    A directory in Hugging Face's layout (config.json, tokenizer.json, *.safetensors) is a language model: one that
    generates where its architecture ends in ForCausalLM, else one that makes embeddings.
    """
    from google.protobuf.json_format import ParseDict, ParseError

    from aios.common.v1.tensor_pb2 import Signature
    from aios.errors import InvalidArgument

    said = None
    if signature is not None:
        try:
            said = ParseDict(json.loads(signature.read_text()), Signature())
        except (ParseError, ValueError) as error:
            raise InvalidArgument.of("signature", f"{signature} cannot be read: {error}") from None
    with connected() as client, Transfer() as transfer:
        made = client.models.register(source, name, said, progress=transfer.report)
    output.emit(made, VERSION)


@model.command()
@click.argument("version")
@click.argument("alias")
@click.option("-d", "--delete", is_flag=True, help="Remove the alias; its version stays.")
@common
def alias(version: str, alias: str, delete: bool) -> None:
    """Point ALIAS at a version: aios model alias digits/3 champion."""
    with connected() as client:
        if delete:
            changed = client.models.delete_alias(version.partition("/")[0], alias)
        else:
            changed = client.models.set_alias(version, alias)
    output.emit(changed, MODEL)


@model.command()
@click.argument("name")
@click.option("-n", "--limit", type=click.IntRange(1), default=50, show_default=True, help="How many lines.")
@common
def log(name: str, limit: int) -> None:
    """What happened to a model, newest first: registrations, promotions, deletions."""
    with connected() as client:
        output.emit_list(client.models.log(name, limit), PROMOTION, none="Nothing yet.")


@model.command()
@click.argument("name")
@click.option("-n", "--dry-run", is_flag=True, help="Say what that would free, and delete nothing.")
@common
def delete(name: str, dry_run: bool) -> None:
    """Delete a version, NAME/3, that no alias names and no deployment serves; or a model, NAME, with all of its
    versions and aliases, of which no deployment serves any.

    A model's name can be used again; the numbers of its versions go on. Content that others share stays; the rest is
    deleted from the object store after a time of grace. What was made from it keeps its lineage.
    """
    with connected() as client:
        output.emit(client.models.delete(name, dry_run=dry_run), DELETION)


@model.command()
@click.argument("version")
@click.option("--target", type=click.Choice(["edge"]), required=True, help="Where it is to run.")
@click.option(
    "--key",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="Your private Ed25519 key as PEM; made where there is none, with its public half in .pub.",
)
@click.option("--to", type=click.Path(path_type=Path), help="Folder; MODEL-VERSION-edge where not given.")
@common
def export(version: str, target: str, key: Path, to: Path | None) -> None:
    """Make a signed folder that runs VERSION with numpy and onnxruntime alone, without a platform.

    \b
      aios model export buyers/3 --target edge --key edge.pem
      python buyers-3-edge/run.py --key edge.pub --input instances.json      (on the device)
    """
    from tempfile import TemporaryDirectory

    from aios.edge import bundle

    signer = bundle.key_at(key)
    with connected() as client, TemporaryDirectory(prefix="aios-export-") as scratch:
        found = client.models.version(version)
        folder = to or Path("-".join([*found.name.split("/")[3::2], target]))
        client.models.pull(version, scratch)
        bundle.make(found, Path(scratch), signer, folder)
    output.emit_data(
        {"folder": str(folder), "key": bundle.public(signer)},
        [("folder", folder), ("its key", f"{key.with_suffix('.pub')}: {bundle.public(signer)}")],
    )


@model.command()
@click.argument("version")
@click.argument("destination", type=click.Path(file_okay=False, path_type=Path))
@common
def pull(version: str, destination: Path) -> None:
    """Fetch the files of a version into a directory."""
    with connected() as client, Transfer() as transfer:
        files = client.models.pull(version, destination, progress=transfer.report)
    output.emit_data([str(file) for file in files], [[file] for file in files])


@model.command()
@click.argument("version")
@click.option("--dataset", default="", help="What it is assessed on; what it was trained on otherwise.")
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE",
    help="Of the recipe assess: samples=200, epsilon=0.03, strong=false.",
)  # fmt: skip
@click.option("--wait", is_flag=True, help="Follow it to its end and show what was found.")
@common
def assess(version: str, dataset: str, assignments: tuple[str, ...], wait: bool) -> int | None:
    """Look for what may go wrong with a version: inputs chosen against it, training data that can be read back from
    it, training data that was poisoned. The report is among the run's outputs."""
    from aios.cli.run import announced, assigned, follow

    with connected() as client:
        made = client.runs.assess(version, assigned(assignments), dataset=dataset)
        if not announced(made, wait):
            return None
        if code := follow(client, made.name, quiet=True):
            return code
        ended = client.runs.get(made.name)
    output.notice(f"The report: `aios run outputs {leaf(made.name)} DIR`, then DIR/report.html.")
    figures = sorted(ended.metrics.items())
    output.emit_data(
        {"run": ended.name, "outputs": ended.outputs, "metrics": dict(figures)},
        [[name, figure(value)] for name, value in figures],
        ["FIGURE", "VALUE"],
    )
    return None
