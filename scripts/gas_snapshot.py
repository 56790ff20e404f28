"""Holds the gas that the contract's tests have just measured against what is committed in contracts/snapshots.

    python scripts/gas_snapshot.py KEPT MEASURED [--part]

`scripts/test-contracts` calls it; --part: only some of the tests were run. Exit codes: 0 they agree; 1 they do not.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

TOLERANCE = 0.005
"""A call may cost so much more or less, as a share, before the snapshot is out of date."""


def differences(kept: Mapping[str, str], measured: Mapping[str, str], part: bool) -> list[str]:
    """What is out of date, a line each. Values are gas in digits; with `part`, what is not measured is let be."""
    found = []
    for name in sorted({*kept, *measured}):
        if name not in measured:
            if not part:
                found.append(f"{name}: is not measured any more")
        elif name not in kept:
            found.append(f"{name}: {int(measured[name]):,} gas, not in the snapshot")
        else:
            old, new = int(kept[name]), int(measured[name])
            if abs(new - old) > TOLERANCE * old:
                found.append(f"{name}: {new:,} gas, {old:,} in the snapshot ({(new - old) / old:+.1%})")
    return found


def main(arguments: list[str]) -> int:
    """Prints what differs, and how to write the snapshot anew."""
    kept, measured = (json.loads(Path(path).read_text(encoding="utf-8")) for path in arguments[:2])
    found = differences(kept, measured, "--part" in arguments[2:])
    if not found:
        return 0
    print("\n".join(found), file=sys.stderr)
    print(
        f"Gas differs from contracts/snapshots/market.json by more than {TOLERANCE:.1%}. "
        "If that is meant, run: scripts/test-contracts --write-gas",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
