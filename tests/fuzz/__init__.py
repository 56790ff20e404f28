"""Fuzzing: mutated messages through the whole handler of a daemon, and mutated files through every reader.

`scripts/fuzz` runs as many as it is told and replays any finding; tests/test_fuzz.py runs some of both.
"""
