"""Gives the participants of a testbed money on a chain that is not ours to print it on."""

from __future__ import annotations

import time
from typing import Any

from eth_account import Account
from eth_utils.address import to_checksum_address

from omnilytics.daemon.log import show
from omnilytics.peers.errors import FundsError
from scripts.chain_process import rpc_call
from scripts.deployment import read_key
from scripts.launcher.options import TestbedOptions
from scripts.launcher.participants import Cast

# A generous guess of what a round's transactions cost an owner, and of what a task costs its model owner besides
# the escrow: gas times twice the present price.
OWNER_GAS_A_ROUND = 2_500_000
MODEL_GAS_A_ROUND = 5_000_000
RECEIPT_SECONDS = 300.0


def fund_accounts(options: TestbedOptions, rpc_url: str, cast: Cast) -> None:
    """Sends everybody what the run may need from the key file's account. Raises FundsError when it has too little.

    What is left over stays in the participants' folders, with their keys.
    """
    assert options.key_file is not None
    account = Account.from_key(read_key(options.key_file))
    price = 2 * int(rpc_call(rpc_url, "eth_gasPrice"), 16)
    stake = (options.group_size + 1) * options.rate
    owner = stake + (options.rounds + 5) * OWNER_GAS_A_ROUND * price
    reward = options.rounds * options.owners * options.rate
    # The settlement pot is reckoned at its own price cap; the model owner gets back what is not used.
    pot = options.rounds * options.owners * 500_000 * 50 * 10**9
    model = reward + pot + (options.rounds + 5) * MODEL_GAS_A_ROUND * price
    wanted = [(cast.model.address, model), *((person.address, owner) for person in cast.owners)]
    total = sum(amount for _, amount in wanted) + len(wanted) * 21_000 * price
    balance = int(rpc_call(rpc_url, "eth_getBalance", account.address, "latest"), 16)
    if balance < total:
        raise FundsError(f"account {account.address} has {balance} wei; this run needs up to {total} wei")
    nonce = int(rpc_call(rpc_url, "eth_getTransactionCount", account.address, "pending"), 16)
    chain_id = int(rpc_call(rpc_url, "eth_chainId"), 16)
    hashes = [
        _transfer(rpc_url, account, chain_id, nonce + number, address, amount, price)
        for number, (address, amount) in enumerate(wanted)
    ]
    until = time.monotonic() + RECEIPT_SECONDS
    for tx_hash in hashes:
        while rpc_call(rpc_url, "eth_getTransactionReceipt", tx_hash) is None:
            if time.monotonic() > until:
                raise FundsError("the transfers to the participants are not mined", help="try again later")
            time.sleep(0.5)


def _transfer(rpc_url: str, account: Any, chain_id: int, nonce: int, to: bytes, wei: int, price: int) -> str:
    signed = account.sign_transaction(
        {
            "chainId": chain_id,
            "nonce": nonce,
            "to": to_checksum_address(show(to)),
            "value": wei,
            "gas": 21_000,
            "maxFeePerGas": price,
            "maxPriorityFeePerGas": min(price, 10**9),
        }
    )
    sent: str = rpc_call(rpc_url, "eth_sendRawTransaction", show(bytes(signed.raw_transaction)))
    return sent
