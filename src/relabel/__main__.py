"""`python -m relabel` is the command `relabel`."""

from relabel.cli.app import main

main()
