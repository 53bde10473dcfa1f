"""Entry point of `python -m psicli`."""

from psicli.cli.main import main

main()
