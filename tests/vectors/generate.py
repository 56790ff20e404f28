"""Writes the vectors that Python and Solidity both read. Run it after a change of the protocol:

    .venv/bin/python tests/vectors/generate.py

Everything is computed by reference.py, in plain integers, and nothing by omnilytics.peers, so that the
vectors find the mistakes of both. Shape of each file: `count` and `case0`, `case1`, .. must be
reproduced; `badCount` and `bad0`, .. hold claims that must be refused (or differ from what is
computed), with the reason. Bytes are 0x-strings; numbers that may exceed 2^63, and signed ones, are
decimal strings; arrays are flat.
"""

import json
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
# As a script, Python puts this folder on the path and not the repository.
sys.path.insert(0, str(FOLDER.parents[1]))

from tests.vectors.aggregation_cases import krum, quantise, ring_sums  # noqa: E402
from tests.vectors.commitment_cases import commitment, context  # noqa: E402
from tests.vectors.secret_cases import keys, masks, messages, prg  # noqa: E402

GENERATORS = {
    "ring_sums": ring_sums,
    "krum": krum,
    "commitment": commitment,
    "context": context,
    "prg": prg,
    "masks": masks,
    "quantise": quantise,
    "messages": messages,
    "keys": keys,
}


def render(name: str) -> str:
    return json.dumps(GENERATORS[name](), indent=1) + "\n"


if __name__ == "__main__":
    for file_name in GENERATORS:
        (FOLDER / f"{file_name}.json").write_text(render(file_name))
