"""The commands, one module each: thin functions that the command line calls by name."""
