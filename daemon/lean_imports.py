"""Leaves out what a library computes while it is imported, for things that nobody here does.

eth_keyfile imports py_ecc's BLS12-381 for key files of version 4, those of validators; their pairings are worked out at
import, which takes as much time as everything else of a daemon's start together. Our keys are of version 3. So
py_ecc's two modules are stood in for before eth_account, or web3, is imported. Whoever uses one is told.
"""

import sys
from types import ModuleType
from typing import Any

# The order of BLS12-381's groups (draft-irtf-cfrg-pairing-friendly-curves, 4.2.1): eth_keyfile subtracts from it.
CURVE_ORDER = 0x73EDA753299D7D483339D80809A1D80553BDA402FFFE5BFEFFFFFFFF00000001


class _Absent(ModuleType):
    """A module of which only names are there."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def used(*_: object, **__: object) -> None:
            raise NotImplementedError(f"{self.__name__}.{name} is left out; see daemon/lean_imports.py")

        return used


def leave_out_pairings() -> None:
    """Puts stand-ins where py_ecc's BLS modules would be, unless they are there already."""
    for name in ("py_ecc.bls", "py_ecc.bls12_381"):
        if name not in sys.modules:
            module = _Absent(name)
            module.curve_order = CURVE_ORDER  # type: ignore[attr-defined]
            sys.modules[name] = module


leave_out_pairings()
