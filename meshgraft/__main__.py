"""``python -m meshgraft``: the same as the command."""

from meshgraft.cli import main

main()
