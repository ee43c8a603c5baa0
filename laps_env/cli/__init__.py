"""The command line: what is asked for, and what comes of it."""
