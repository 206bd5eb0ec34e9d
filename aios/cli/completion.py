"""`aios completion`."""

import os
from pathlib import Path

import click

from aios.cli import output
from aios.cli.output import common

SHELLS = ("bash", "zsh", "fish")
HOW = {
    "bash": 'eval "$(aios completion bash)"    # in ~/.bashrc',
    "zsh": 'eval "$(aios completion zsh)"    # in ~/.zshrc',
    "fish": "aios completion fish | source    # in ~/.config/fish/config.fish",
}


@click.command(epilog="\b\n" + "\n".join(HOW.values()))
@click.argument("shell", type=click.Choice(SHELLS), required=False)
@common
def completion(shell: str | None) -> None:
    """Print what makes SHELL complete commands, verbs and options; that of $SHELL where none is named."""
    from click.shell_completion import get_completion_class

    from aios.cli.root import root

    named = shell or Path(os.environ.get("SHELL", "")).name
    made = get_completion_class(named) if named in SHELLS else None
    if made is None:
        raise click.UsageError(f"Say for which shell: {', '.join(SHELLS)}.")
    script = made(root, {}, "aios", "_AIOS_COMPLETE").source()
    if output.shared().output == "table":
        click.echo(script)
    else:
        output.emit_data({"shell": named, "script": script}, [])
