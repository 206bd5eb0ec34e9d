"""`aios edge`: sign, device, agent."""

from pathlib import Path

import click

from aios.cli import output
from aios.cli.output import Columns, Noun, age, common, connected, leaf
from aios.data.v1 import edge_pb2
from aios.errors import InvalidArgument


def version(name: str) -> str:
    """`buyers/3` or `buyers/@production`."""
    return "/".join(name.split("/")[3::2])


def answered(device: edge_pb2.EdgeDevice) -> int:
    """Predictions of all versions."""
    return sum(each.predictions for each in device.figures)


DEVICE: Columns = {
    "NAME": lambda d: leaf(d.name),
    "FOLLOWS": lambda d: version(d.follows),
    "WANTED": lambda d: version(d.wanted_version) or "not signed yet",
    "RUNNING": lambda d: version(d.running_version) or "-",
    "ANSWERED": answered,
    "SEEN": lambda d: age(d.seen_time) if d.HasField("seen_time") else "never",
}
DEVICE_DETAILS: Columns = {
    **DEVICE,
    "PROBLEM": lambda d: d.problem or "-",
    "FIGURES": lambda d: "; ".join(
        f"{version(each.model_version)}: {each.requests} requests, {each.errors} failed, "
        f"{each.seconds * 1000 / each.requests if each.requests else 0:.1f} ms each"
        for each in d.figures
    ),
}
DEVICE_MADE: Columns = {
    "NAME": lambda d: leaf(d.name),
    "USER": lambda d: d.user,
    "PASSWORD": lambda d: d.password,
    "FOLLOWS": lambda d: version(d.follows),
}
FIRST = "No devices yet: `aios edge device create roof --follows buyers/@production` lets one in."


@click.group(cls=Noun)
def edge() -> None:
    """Models on devices without a platform."""


@edge.command()
@click.argument("model_version")
@click.option(
    "--key",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="Your private Ed25519 key as PEM; made where there is none, with its public half in .pub.",
)
@common
def sign(model_version: str, key: Path) -> None:
    """Sign MODEL_VERSION, such as buyers/3, for the devices that follow it. The key stays here."""
    from tempfile import TemporaryDirectory

    from aios.edge import bundle

    signer = bundle.key_at(key)
    with connected() as client, TemporaryDirectory(prefix="aios-sign-") as scratch:
        found = client.models.version(model_version)
        client.models.pull(found.name, scratch)
        client.edge.keep_bundle(found.name, bundle.signed(found, Path(scratch), signer))
    output.emit_data(
        {"model_version": found.name, "key": bundle.public(signer)},
        [("signed", version(found.name)), ("its key", f"{key.with_suffix('.pub')}: {bundle.public(signer)}")],
    )


@edge.group(cls=Noun)
def device() -> None:
    """Devices: each follows one model, and tells what it answered."""


@device.command()
@click.argument("name")
@click.option(
    "--follows", required=True, metavar="VERSION", help="buyers/@production, or one version: buyers/3."
)
@common
def create(name: str, follows: str) -> None:
    """Let a device in. Its password is shown this once.

    \b
      aios edge device create roof --follows buyers/@production --json > roof.json
    """
    with connected() as client:
        made = client.edge.create_device(name, follows)
    output.emit(made, DEVICE_MADE)
    output.notice(
        "The password is not kept. The door for devices is open where AIOS_EDGE_ADDRESS is set; on the device: `aios edge agent`."
    )


@device.command("list")
@click.option("-n", "--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many.")
@common
def list_devices(limit: int) -> None:
    """The project's devices, with what they run."""
    with connected() as client:
        output.emit_list(client.edge.devices(limit), DEVICE, none=FIRST)


@device.command()
@click.argument("name")
@common
def get(name: str) -> None:
    """A device, with what each version has answered there."""
    with connected() as client:
        output.emit(client.edge.get_device(name), DEVICE_DETAILS)


@device.command()
@click.argument("name")
@common
def delete(name: str) -> None:
    """Shut a device out, within five seconds. What it runs it goes on running."""
    with connected() as client:
        client.edge.delete_device(name)
    output.notice(f"{leaf(name)} is shut out.")


@edge.command()
@click.option(
    "--credentials",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="What `aios edge device create NAME --json` printed.",
)
@click.option("--server", required=True, metavar="URL", help="Of the platform: tls://aios.example.org:7422.")
@click.option(
    "--authority",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="PEM of who signed its certificate, where the system does not know them.",
)
@click.option(
    "--key", required=True, help="File with the public key of who signs, or the key: 64 hexadecimal digits."
)
@click.option(
    "--home", type=click.Path(file_okay=False, path_type=Path), default=Path("aios-edge"), show_default=True,
    help="Folder for models and figures.",
)  # fmt: skip
@click.option(
    "--serve", default="127.0.0.1:8390", show_default=True, metavar="HOST:PORT", help="Where it answers."
)
def agent(credentials: Path, server: str, authority: Path | None, key: str, home: Path, serve: str) -> None:
    """Serve what this device should run: POST /predict, GET /health. Runs until it is stopped.

    \b
      aios edge agent --credentials roof.json --server tls://aios.example.org:7422 --key edge.pub
      curl 127.0.0.1:8390/predict -d '{"instances": [[1, 2, 3]]}'
    """
    import asyncio
    import logging
    import signal

    from aios.edge.agent import Agent
    from aios.edge.leaf import Identity

    identity = Identity.read(credentials, server, str(authority or ""))
    host, _, port = serve.rpartition(":")
    if not host or not port.isdecimal():
        raise InvalidArgument.of("--serve", f"must be HOST:PORT, not {serve!r}")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)

    async def run() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await Agent(identity, _public(key), home.resolve(), (host, int(port))).run(stop)

    asyncio.run(run())


def _public(key: str) -> bytes:
    path = Path(key)
    text = (path.read_text() if path.is_file() else key).strip()
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != 32:
        raise InvalidArgument.of(
            "--key", f"{key} is neither a file with a public key nor 64 hexadecimal digits"
        )
    return found
