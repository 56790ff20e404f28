"""Runs a program under cProfile, by the processor time of its main thread: `python -m scripts.launcher.profiled OUT
PROGRAM ARGUMENTS`. On a machine with more processes than processors wall time only says who was waiting.
"""

from __future__ import annotations

import cProfile
import runpy
import sys
import time


def main() -> None:
    """Leaves the profile in OUT, however the program ends."""
    out, *sys.argv = sys.argv[1:]
    profile = cProfile.Profile(time.thread_time)
    try:
        profile.runcall(runpy.run_path, sys.argv[0], run_name="__main__")
    finally:
        profile.dump_stats(out)


if __name__ == "__main__":
    main()
