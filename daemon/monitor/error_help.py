"""What to do about an error or warning whose line does not say it: by its code, or by its event."""

from __future__ import annotations

from omnilytics.peers.errors import OmniLyticsError


def _of_tree(root: type[OmniLyticsError]) -> dict[str, str]:
    found = {root.code: root.default_help}
    for branch in root.__subclasses__():
        found |= _of_tree(branch)
    return found


HELP_BY_CODE = {
    **_of_tree(OmniLyticsError),
    "chain.refused": "nothing, where another was faster; else the words name what the contract wants",
    "chain.answered": "check that the RPC is the right one and has this market",
    "tx.reverted": "nothing: another transaction was mined first; the daemon looks again with the next block",
    "tx.bumped": "nothing while fees are high; raise --gas-price-cap where the cap is what holds it back",
    "tx.resent": "nothing: the same bytes were handed over again",
    "group.dead": "nothing: the stakes of its mates are released; its own daemon should have been started again",
    "round.sat-out": "see whether the mates that it names are alive and reach the broker",
    "round.missed": "if it happens often: longer phases, or a faster machine",
    "krum": "the model owner and the contract select differently: compare their versions before going on",
    "task.missed": "join earlier, or another task",
    "bug": "report it with the log",
}
