"""``python -m meshgraft``: the same as the command."""

from meshgraft.start import main

main()
