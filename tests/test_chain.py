"""The only web3, on a real chain: what it reads, how refusals are told, and an RPC that is not what it should be."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from omnilytics.daemon import chain as chain_module
from omnilytics.daemon.chain import Chain, ContractRefused, RpcAnswered, load_artifact, params_tuple
from omnilytics.daemon.contract_abi import selector
from omnilytics.daemon.journal import StoredVector
from omnilytics.daemon.posting import post_parts
from omnilytics.peers.commitment import root
from omnilytics.peers.errors import ChainError, ChainMismatchError
from omnilytics.peers.hashing import base_context, keccak, round_context
from omnilytics.peers.market import MemberStatus, Outcome, RoundPhase, TaskStatus
from scripts import chain_process
from tests.local_market import PARAMS, SPEC, LocalMarket, lasting, nonce_of, open_market
from tests.round_network import secret

NOBODY = "0x" + "11" * 20


# ------------------------------------------------------------------ a task's life


async def test_everything_that_is_said_of_a_task_is_read_back(
    anvil: chain_process.Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Small windows: the search for logs goes through several of them.
    monkeypatch.setattr(chain_module, "LOG_WINDOW_BLOCKS", 7)
    async with open_market(anvil) as market:
        chain = market.chain
        assert await chain.task_count() == 0
        with pytest.raises(ChainError, match="no task 1 on this contract"):
            await chain.created_task(1, (await chain.head()).number)
        receipt = await market.create(lasting(rounds=1, strict_selection=False))
        reward, pot = await chain.escrow_required(market.params)
        assert reward == 9 * market.params.rate
        (created,) = chain.events_in(receipt, "TaskCreated")
        assert created["taskId"] == 1
        assert created["escrow"] == reward + pot
        assert receipt.fee == receipt.gas_used * receipt.gas_price
        assert chain.events_in(receipt, "Joined") == []
        assert await chain.params(1) == market.params

        state = await chain.state(1)
        assert (state.status, state.escrow, state.locked) == (TaskStatus.JOINING, reward + pot, reward + pot)
        assert state.model_owner == market.model.address
        assert state.box_key == market.model.box.public
        await market.draw()
        head = await chain.head()
        assert await chain.created_task(1, head.number) == (SPEC, market.model.address)
        assert await chain.tasks_of(market.model.address, head.number) == [(1, SPEC)]
        assert await chain.tasks_of(market.owners[0].address, head.number) == []
        members = await chain.members(1)
        assert [m.account for m in members] == [keys.address for keys in market.owners]
        assert [m.box_key for m in members] == [keys.box.public for keys in market.owners]
        assert sorted(m.seat for m in members) == list(range(9))
        assert {m.status for m in members} == {MemberStatus.SEATED}
        assert {m.stake for m in members} == {PARAMS.stake}
        with pytest.raises(ChainError, match="no opening of round 1"):
            await chain.opening(1, 1, head.number)

        await _play_a_round(market)


async def _play_a_round(market: LocalMarket) -> None:
    """The model in two parts; vectors posted; settled; and the past still readable."""
    chain, payload = market.chain, bytes(range(200))
    before = await chain.head()
    await market.act(market.model, "publishPart", 1, 1, 0, b"a first try")
    await market.act(market.model, "publishPart", 1, 1, 0, payload[:100])
    await market.act(market.model, "openRound", *market.opening_arguments(1, payload, 2))
    head = await chain.head()
    opening = await chain.opening(1, 1, head.number)
    assert (opening.task_id, opening.round, opening.part_count, opening.block) == (1, 1, 2, head.number)
    assert opening.playable == 0b111
    assert await chain.payload(opening) == payload, "a part published again replaces the earlier one"
    seen = await market.snapshot()
    params_hash, pads = seen.state.params_hash, opening.pad_hashes
    base = base_context(chain.chain_id, chain.market, 1, 1, params_hash, keccak(payload), 2, opening.key_hash, pads)
    assert opening.base_ctx == base
    assert opening.ctx == round_context(base, opening.model_commit) == seen.state.ctx
    assert opening.commit_deadline == seen.state.phase_end
    # As of an earlier block nothing of it is to be seen.
    assert (await chain.state(1, before.number)).phase is RoundPhase.IDLE
    deep = await chain.snapshot(1, market.params, head, head.number - before.number, None)
    assert deep.state.phase is RoundPhase.IDLE
    assert (deep.block, deep.time) == (head.number, head.time)

    vectors: dict[int, StoredVector] = {}
    for keys in market.owners:
        me = seen.member(keys.address)
        assert me is not None
        data = np.random.default_rng(me.seat).bytes(market.params.layout.byte_count)
        head_link = root(data, market.params.chunk_words, opening.ctx, me.seat)
        vectors[me.seat] = StoredVector(opening.ctx, head_link, data, np.zeros(1, np.int64))
        await market.act(keys, "commit", 1, opening.ctx, head_link)
    assert all(m.committed_in(1) and not m.posted_in(1) for m in await chain.members(1))
    await market.anvil.mine(2)
    for keys in market.owners:
        me = seen.member(keys.address)
        assert me is not None
        for part in post_parts(vectors[me.seat], market.params, me.seat):
            await market.act(keys, "post", 1, opening.ctx, part.first_chunk, part.data, part.next_link)
    until = (await chain.head()).number
    posted = await chain.posted(opening, until)
    assert {part.seat: part.data for part in posted} == {seat: v.vector for seat, v in vectors.items()}
    assert await chain.posted(opening, opening.block) == []
    (closed,) = await chain.round_events("PostClosed", opening, until)
    assert closed["complete"] == 0b111
    assert all(m.posted_in(1) for m in await chain.members(1))
    # Nobody settles: everybody is paid all the same, and the task of one round is over.
    await market.anvil.advance(market.params.settle_seconds + 1)
    await market.act(market.owners[0], "poke", 1)
    until = (await chain.head()).number
    assert await chain.round_endings(1, until) == {1: Outcome.LATE}
    assert (await chain.state(1)).status is TaskStatus.ENDED
    assert await chain.paid_rounds(1) == [1, 1, 1]
    owner = market.owners[0]
    assert await chain.withdrawable(owner.address, [1]) == market.params.rate + market.params.stake
    rest = await chain.credits(market.model.address)
    assert rest == (await chain.state(1)).refunded
    before_wei = await chain.balance(owner.address)
    receipt = await market.act(owner, "withdraw", [1], owner.address)
    assert await chain.balance(owner.address) == before_wei + PARAMS.rate + PARAMS.stake - receipt.fee
    assert await chain.withdrawable(owner.address, [1]) == 0


# ----------------------------------------------------------------------- refusals


async def test_every_refusal_is_told_by_name_with_its_numbers(anvil: chain_process.Chain) -> None:
    async with open_market(anvil) as market:
        chain, alice, bob = market.chain, *market.owners[:2]

        async def refused(keys: Any, function: str, *arguments: Any, value: int = 0) -> ContractRefused:
            with pytest.raises(ContractRefused) as caught:
                await chain.estimate(keys.address, chain.encode(function, *arguments), value)
            assert caught.value.exit_code == 4
            return caught.value

        told = await refused(alice, "poke", 5)
        assert (told.name, told.arguments) == ("NoSuchTask", {"taskId": 5})
        await market.create()
        told = await refused(alice, "join", *market.join_arguments(alice), value=7)
        assert (told.name, told.arguments) == ("WrongStake", {"required": PARAMS.stake, "sent": 7})
        assert str(told) == f"the contract refuses: WrongStake(required={PARAMS.stake}, sent=7)"
        assert told.help == "send exactly the task's stake"
        await market.join(alice)
        told = await refused(alice, "join", *market.join_arguments(alice), value=PARAMS.stake)
        assert (told.name, told.arguments) == ("AlreadyJoined", {"account": alice.account.address.lower()})
        told = await refused(bob, "join", 1, alice.box.public, bytes(32), [], value=PARAMS.stake)
        assert told.arguments == {"boxKey": alice.box.public}
        assert f"BoxKeyTaken(boxKey=0x{alice.box.public.hex()})" in str(told)
        told = await refused(bob, "reveal", 1, bytes(32))
        assert (told.name, told.arguments) == ("WrongStatus", {"status": TaskStatus.JOINING})
        told = await refused(bob, "withdraw", [1], bob.address)
        assert (told.name, told.arguments) == ("NothingToWithdraw", {})
        for keys in market.owners[1:]:
            await market.join(keys)
        told = await refused(market.spare[0], "join", *market.join_arguments(market.spare[0]), value=PARAMS.stake)
        assert told.name == "TaskFull"
        assert "another task" in told.help
        told = await refused(alice, "reveal", 1, secret("not the nonce"))
        assert told.name == "BadNonce"
        await market.act(alice, "reveal", 1, nonce_of(alice))


async def test_bad_parameters_are_named_with_their_bound(anvil: chain_process.Chain) -> None:
    async with open_market(anvil) as market:
        for changes, name in (
            ({"group_size": 2}, "groupSize"),
            ({"max_groups": 2}, "maxGroups"),
            ({"max_magnitude": 5462}, "maxMagnitude"),
            ({"chunk_words": 0}, "chunkWords"),
            ({"rounds": 0}, "rounds"),
        ):
            with pytest.raises(ContractRefused, match=name) as caught:
                await market.chain.escrow_required(replace(PARAMS, **changes))  # type: ignore[arg-type]
            assert caught.value.name == "BadParameter"
            assert caught.value.arguments["name"] == name
        reward, pot = await market.chain.escrow_required(PARAMS)
        data = market.chain.encode("createTask", params_tuple(PARAMS), market.model.box.public, SPEC)
        with pytest.raises(ContractRefused, match="EscrowMismatch"):
            await market.chain.estimate(market.model.address, data, reward + pot - 1)


def test_every_error_of_the_contract_can_be_decoded() -> None:
    """None has a kind of argument that the decoder, or the words, could not take."""
    from eth_abi.abi import encode
    from web3.exceptions import ContractCustomError

    chain = Chain("http://127.0.0.1:1", bytes(20))
    samples: dict[str, Any] = {"address": NOBODY, "bytes32": bytes(range(32)), "string": "name"}
    errors = [item for item in load_artifact()["abi"] if item["type"] == "error"]
    assert len(errors) >= 30
    for item in errors:
        types = [entry["type"] for entry in item["inputs"]]
        values = [samples.get(kind, 3) for kind in types]
        data = "0x" + (selector(item) + encode(types, values)).hex()
        told = chain._refusal(ContractCustomError("reverted", data=data))
        assert isinstance(told, ContractRefused)
        assert told.name == item["name"]
        assert list(told.arguments) == [entry["name"] for entry in item["inputs"]]
        assert told.name in str(told)


@pytest.mark.parametrize("data", ["0x", "0x12345678", "0x1234567890", "no hex", None, {"data": "0x00"}, "0xzz345678"])
def test_an_answer_with_no_error_of_ours_is_still_told(data: object) -> None:
    from web3.exceptions import ContractLogicError

    chain = Chain("http://127.0.0.1:1", bytes(20))
    told = chain._refusal(ContractLogicError("execution reverted", data=data))  # type: ignore[arg-type]
    assert isinstance(told, ContractRefused)
    assert "execution reverted" in str(told)


def test_a_known_error_with_cut_off_arguments_is_still_told() -> None:
    from web3.exceptions import ContractCustomError

    chain = Chain("http://127.0.0.1:1", bytes(20))
    item = next(entry for entry in load_artifact()["abi"] if entry.get("name") == "WrongStake")
    told = chain._refusal(ContractCustomError("execution reverted", data="0x" + selector(item).hex() + "00"))
    assert isinstance(told, ChainError)


# ---------------------------------------------------------------------- the wrong RPC


async def test_another_chain_or_an_empty_address_is_refused(anvil: chain_process.Chain) -> None:
    async with open_market(anvil) as market:
        chain = Chain(anvil.rpc_url, market.chain.market)
        with pytest.raises(ChainMismatchError, match="RPC chain id 31337, config expects 1") as caught:
            await chain.connect(1)
        assert caught.value.exit_code == 7
        await chain.connect(31337)
        assert chain.run_name == market.chain.run_name
        await chain.close()
        chain = Chain(anvil.rpc_url, bytes.fromhex(NOBODY[2:]))
        with pytest.raises(ChainMismatchError, match=f"no contract code at {NOBODY}"):
            await chain.connect()
        await chain.close()


async def test_runs_on_one_broker_are_told_apart(anvil: chain_process.Chain) -> None:
    async with open_market(anvil) as one, open_market(anvil) as two:
        assert one.chain.genesis == two.chain.genesis
        assert one.chain.run_name != two.chain.run_name


async def test_a_contract_that_is_no_market_gives_an_error_not_a_crash(anvil: chain_process.Chain) -> None:
    await anvil.call("anvil_setCode", NOBODY, "0x6000")
    chain = Chain(anvil.rpc_url, bytes.fromhex(NOBODY[2:]))
    await chain.connect()
    with pytest.raises(ChainError):
        await chain.task_count()
    with pytest.raises(ChainError):
        await chain.state(1)
    await chain.close()


async def test_an_rpc_that_is_not_there_is_named() -> None:
    chain = Chain("http://127.0.0.1:1", bytes(20))
    for call in (chain.connect(), chain.head(), chain.receipt(bytes(32)), chain.send_raw(b"\x02")):
        with pytest.raises(ChainError, match=r"cannot reach RPC http://127\.0\.0\.1:1"):
            await call
    await chain.close()


@contextlib.asynccontextmanager
async def server(status: int, text: str, kind: str, pause: float = 0.0) -> AsyncIterator[str]:
    async def answer(_request: web.Request) -> web.Response:
        await asyncio.sleep(pause)
        return web.Response(status=status, text=text, content_type=kind)

    app = web.Application()
    app.router.add_post("/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (200, "<html>Welcome to the hotel's network</html>", "text/html"),
        (200, "", "application/json"),
        (200, '{"jsonrpc": "2.0", "id": 1, "error": {"code": -32000, "message": "rate limited"}}', "application/json"),
        (200, '{"jsonrpc": "2.0", "id": 1, "error": "no"}', "application/json"),
        (200, '{"jsonrpc": "2.0", "id": 1}', "application/json"),
        (200, "[]", "application/json"),
        (200, "7", "application/json"),
        (200, '{"jsonrpc": "2.0", "id": 1, "result": "0xzz"}', "application/json"),
        (200, '{"jsonrpc": "2.0", "id": 1, "result": null}', "application/json"),
        (429, "slow down", "text/plain"),
        (502, "<html>bad gateway</html>", "text/html"),
    ],
)
async def test_an_rpc_that_talks_nonsense_is_a_chain_error(status: int, text: str, kind: str) -> None:
    """Whatever a proxy or a rate limit answers must not end a daemon."""
    async with server(status, text, kind) as url:
        chain = Chain(url, bytes(20))
        for call in (chain.connect(), chain.head(), chain.balance(bytes(20)), chain.send_raw(b"\x02")):
            with pytest.raises(ChainError):
                await call
        with contextlib.suppress(ChainError):
            assert await chain.receipt(bytes(32)) is None
        await chain.close()


@pytest.mark.parametrize("status", [403, 404, 200])
async def test_the_key_in_a_providers_url_is_in_no_error(status: int) -> None:
    async with server(status, "see the documentation", "text/plain") as url:
        chain = Chain(f"{url}/v3/0123456789abcdef", bytes(20))
        for call in (chain.connect(), chain.head(), chain.send_raw(b"\x02")):
            with pytest.raises(ChainError) as caught:
                await call
            assert url in str(caught.value)
            assert "0123456789abcdef" not in str(caught.value) + caught.value.help
        await chain.close()


async def test_an_rpc_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain_module, "CALL_SECONDS", 0.1)
    async with server(200, "", "text/plain", pause=20.0) as url:
        chain = Chain(url, bytes(20))
        with pytest.raises(ChainError, match="cannot reach RPC"):
            await chain.head()
        await chain.close()


async def test_a_transaction_that_the_rpc_knows_is_no_error_and_one_it_refuses_is(anvil: chain_process.Chain) -> None:
    async with open_market(anvil) as market:
        await market.create()
        await anvil.call("evm_setAutomine", False)
        keys = market.owners[0]
        data = market.chain.encode("poke", 1)
        raw, tx_hash = keys.sign(market.chain.transaction(data, 0, 0, 400_000, 10**11, 10**9))
        await market.chain.send_raw(raw)
        await market.chain.send_raw(raw)
        assert await market.chain.receipt(tx_hash) is None
        assert await market.chain.next_nonce(keys.address) == 1
        assert await market.chain.mined_nonce(keys.address) == 0
        await anvil.mine()
        receipt = await market.chain.receipt(tx_hash)
        assert receipt is not None
        assert receipt.succeeded
        assert await market.chain.mined_nonce(keys.address) == 1
        again, _ = keys.sign(market.chain.transaction(data, 0, 0, 500_000, 10**11, 10**9))
        with pytest.raises(RpcAnswered, match="answered with an error"):
            await market.chain.send_raw(again)


def test_log_windows_cover_every_block_once() -> None:
    for until in (0, 1, 1999, 2000, 2001, 10_007):
        windows = chain_module._windows(until)
        assert sorted(block for first, last in windows for block in range(first, last + 1)) == list(range(until + 1))
        assert windows[0][1] == until, "the newest first"
        assert max(last - first + 1 for first, last in windows) <= chain_module.LOG_WINDOW_BLOCKS


def test_the_artifact_is_the_packages_own() -> None:
    assert Path(chain_module.ARTIFACT).is_file()
    assert {"abi", "bytecode"} <= set(load_artifact())
