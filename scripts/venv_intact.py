"""Exits 0 when the environment it runs in is whole: pip works, and every installed package has all its files.

scripts/setup asks before it builds on a .venv that an earlier run may have left half made. pip writes a
package's RECORD last, so a package without one was cut off. Standard library only: nothing else is sure here.
"""

import csv
import importlib.metadata
import sys
from pathlib import Path


def is_intact() -> bool:
    if sys.version_info < (3, 11):  # noqa: UP036  (a .venv may be older than we are)
        return False
    distributions = list(importlib.metadata.distributions())
    if "pip" not in {distribution.metadata["Name"] for distribution in distributions}:
        return False
    for distribution in distributions:
        # Not distribution.files: since Python 3.12 it leaves missing files out.
        record = distribution.read_text("RECORD")
        if record is None:
            return False
        for name, *_ in csv.reader(record.splitlines()):
            if not name.endswith(".pyc") and not Path(str(distribution.locate_file(name))).exists():
                return False
    return True


if __name__ == "__main__":
    sys.exit(0 if is_intact() else 1)
