"""What every command says of itself: `python -m tests.golden.command_help` records it in `tests/golden/help.txt`."""

from collections.abc import Iterator
from pathlib import Path

import click

from aios.cli.root import COMMANDS, root

RECORDED = Path(__file__).with_name("help.txt")
WIDTH = 110


def commands(
    command: click.Command, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """A command and those below it, by their paths."""
    yield path, command
    if isinstance(command, click.Group):
        below = COMMANDS if command is root else sorted(command.commands)
        for name in below:
            found = command.get_command(click.Context(command), name)
            assert found is not None
            yield from commands(found, (*path, name))


def texts() -> str:
    """All of it, as a terminal of WIDTH columns shows it."""
    said = []
    for path, command in commands(root, ("aios",)):
        context = click.Context(
            command,
            info_name=" ".join(path),
            terminal_width=WIDTH,
            max_content_width=WIDTH,
            help_option_names=["-h", "--help"],
        )
        said.append(f"$ {' '.join(path)} --help\n{command.get_help(context)}\n")
    return "\n".join(said)


if __name__ == "__main__":
    RECORDED.write_text(texts())
