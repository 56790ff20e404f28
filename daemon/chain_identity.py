"""A data folder belongs to one chain and one market, for ever."""

from __future__ import annotations

from omnilytics.daemon.chain import Chain
from omnilytics.daemon.journal import Journal
from omnilytics.peers.errors import ChainMismatchError


def check_identity(journal: Journal, chain: Chain) -> None:
    """Binds a journal to chain and market on first use. Raises ChainMismatchError where it is bound to others.

    A local chain that was started anew has the same chain id and addresses, but another genesis.
    """
    identity = chain.genesis + chain.market
    if journal.bind("chain", identity) != identity:
        raise ChainMismatchError(
            "this data folder belongs to another chain or market", help="use another --home for every chain and market"
        )
