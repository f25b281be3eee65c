"""The webhook as a process: sockets, reviews, settings and their reload."""
