"""`aios model`: list, get, versions, alias, pull."""

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
    "AGE": lambda v: age(v.create_time),
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
@click.argument("name")
@common
def versions(name: str) -> None:
    """The versions of a model, newest first."""
    with connected() as client:
        output.emit_list(client.models.versions(name), VERSION, none="No version yet.")


@model.command()
@click.argument("version")
@click.argument("alias")
@common
def alias(version: str, alias: str) -> None:
    """Point ALIAS at a version: aios model alias digits/3 champion."""
    with connected() as client:
        output.emit(client.models.set_alias(version, alias), MODEL)


@model.command()
@click.argument("version")
@click.argument("destination", type=click.Path(file_okay=False, path_type=Path))
@common
def pull(version: str, destination: Path) -> None:
    """Fetch the files of a version into a directory."""
    with connected() as client, Transfer() as transfer:
        files = client.models.pull(version, destination, progress=transfer.report)
    output.emit_data([str(file) for file in files], [[file] for file in files])
