"""`python -m psicli`."""

from psicli.cli.cli import main

main()
