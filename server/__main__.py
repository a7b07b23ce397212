"""`python -m hotfeast.server`: the `hotfeast` command."""

from hotfeast.server.cli import main

main()
