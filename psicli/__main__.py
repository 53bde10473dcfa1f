"""`python -m psicli`."""

from psicli.cli import main

main()
