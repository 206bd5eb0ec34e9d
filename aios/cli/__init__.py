"""The `aios` command: nouns and verbs over the client, and the stack on this machine.

Data goes to stdout, progress and errors to stderr. Every command takes `-o table|json|yaml`. Commands are imported
when they are called, so that `aios --help` answers at once.
"""

from aios.cli.root import main

__all__ = ["main"]
