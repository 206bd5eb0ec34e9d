"""`python -m aios.cli`, where the `aios` script is not on PATH."""

from aios.cli.root import main

main()
