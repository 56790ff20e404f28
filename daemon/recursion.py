"""Python's own bound on nesting, kept: py_ecc, which eth-account imports, raises it from 1,000 to 100,000.

With that bound a few kilobytes of opening brackets, from a hostile task or RPC, overflow the C stack: the process
dies of SIGSEGV where json and tomllib would have raised RecursionError. Nothing of ours nests as deep as 1,000.
"""

import sys

MOST_NESTED = 1000


def keep_recursion_bounded() -> None:
    """To be called by each module after it imported eth-account or web3."""
    sys.setrecursionlimit(min(MOST_NESTED, sys.getrecursionlimit()))
