"""The testbed: a whole market of local processes, followed through their logs alone."""
