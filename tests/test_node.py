"""The wiring page: one part, one queue, and an end that always says why."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from omnilytics.daemon import node as node_module
from omnilytics.daemon import part_runner
from omnilytics.daemon.block_watch import BlockWatch
from omnilytics.daemon.broker import Arrived
from omnilytics.daemon.chain import ContractRefused, Head, RpcAnswered, UnknownTask
from omnilytics.daemon.config import Settings
from omnilytics.daemon.home_lock import lock_home
from omnilytics.daemon.node import Event, Node, PresenceChanged, SnapshotSeen, TimePassed, WorkDone
from omnilytics.daemon.transactions import duty_key
from omnilytics.peers.errors import ChainError, ChainMismatchError, DataError, LockError, OmniLyticsError
from scripts import broker_process, chain_process
from tests.local_market import LocalMarket, keys_of, open_market
from tests.round_network import secret

PATIENCE = 20.0
ROOT = Path(__file__).resolve().parent.parent
HOLD = """
import sys, time
from pathlib import Path
from omnilytics.daemon.home_lock import lock_home
with lock_home(Path(sys.argv[1])):
"""
ME = keys_of("0x" + "42" * 32, "me")


class Recorder:
    """A part that remembers what it is told and does what a test wants."""

    def __init__(self, task_id: int | None = None) -> None:
        self.task_id = task_id
        self.events: list[Event] = []
        self.finished = False
        self.react: Callable[[Event], Awaitable[None]] | None = None

    async def prepare(self) -> None:
        pass

    async def handle(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, WorkDone):
            await event.proceed()
        if self.react is not None:
            await self.react(event)

    def snapshots(self) -> list[Any]:
        return [event.snapshot for event in self.events if isinstance(event, SnapshotSeen)]


def records(home: Path, event: str) -> list[dict[str, Any]]:
    lines = (home / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [line for line in map(json.loads, lines) if line["event"] == event]


async def eventually(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def playing(node: Node, part: Recorder) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.create_task(node.run(part))
    try:
        yield task
    finally:
        node._stop.set()
        await asyncio.wait({task}, timeout=PATIENCE)


@pytest.fixture
def settings(tmp_path: Path, broker: broker_process.Broker) -> Settings:
    return Settings(tmp_path / "home", "http://127.0.0.1:1", "0x" + "11" * 20, broker.url, poll_seconds=0.05)


def on(market: LocalMarket, settings: Settings) -> Settings:
    return replace(settings, chain=market.chain.url, market="0x" + market.chain.market.hex())


# ---------------------------------------------------------------------- start and end


async def test_it_plays_until_its_part_is_finished(anvil: chain_process.Chain, settings: Settings) -> None:
    async with open_market(anvil) as market:
        part = Recorder()

        async def stop_after_ticks(event: Event) -> None:
            part.finished = sum(isinstance(seen, TimePassed) for seen in part.events) >= 2

        part.react = stop_after_ticks
        await asyncio.wait_for(Node(on(market, settings), ME, "owner").run(part), PATIENCE)
        assert len(records(settings.home, "daemon.ready")) == 1
        assert records(settings.home, "heartbeat")
        (last,) = records(settings.home, "daemon.exit")
        assert last["data"] == {"reason": "finished"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_in_order(
    anvil: chain_process.Chain, settings: Settings, number: signal.Signals
) -> None:
    async with open_market(anvil) as market:
        part = Recorder()
        async with playing(Node(on(market, settings), ME, "owner"), part) as task:
            await eventually(lambda: bool(part.events))
            os.kill(os.getpid(), number)
            await asyncio.wait_for(task, PATIENCE)
        assert records(settings.home, "daemon.exit")[0]["data"] == {"reason": "signal"}


async def test_a_signal_ends_it_also_while_the_rpc_is_away(settings: Settings) -> None:
    """Exit 0, and not only after the next try."""
    async with playing(Node(settings, ME, "owner"), Recorder()) as task:
        await eventually(lambda: settings.log_path.exists() and len(records(settings.home, "rpc.error")) >= 1)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(task, PATIENCE)
    assert records(settings.home, "daemon.exit")[0]["data"] == {"reason": "signal"}


async def test_a_hangup_reopens_the_log(anvil: chain_process.Chain, settings: Settings) -> None:
    async with open_market(anvil) as market:
        part = Recorder()
        async with playing(Node(on(market, settings), ME, "owner"), part):
            await eventually(lambda: bool(part.events))
            settings.log_path.rename(settings.home / "old.jsonl")
            os.kill(os.getpid(), signal.SIGHUP)
            await eventually(settings.log_path.exists)
        assert records(settings.home, "daemon.exit")


async def test_signals_say_more_and_less(anvil: chain_process.Chain, settings: Settings) -> None:
    async with open_market(anvil) as market:
        part = Recorder()
        async with playing(Node(on(market, settings), ME, "owner"), part):
            await eventually(lambda: bool(part.events))
            os.kill(os.getpid(), signal.SIGUSR2)
            await eventually(lambda: len(records(settings.home, "log.level")) == 1)
            os.kill(os.getpid(), signal.SIGUSR1)
            await eventually(lambda: len(records(settings.home, "log.level")) == 2)
        assert [line["level"] for line in records(settings.home, "log.level")] == ["info", "debug"]


async def test_a_service_manager_hears_a_whole_life(
    anvil: chain_process.Chain, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "ear"))
    monkeypatch.setenv("WATCHDOG_USEC", "50000")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(tmp_path / "ear"))
        ear.setblocking(False)

        async def heard(wanted: str) -> list[str]:
            loop = asyncio.get_running_loop()
            while True:
                lines = (await asyncio.wait_for(loop.sock_recv(ear, 4096), PATIENCE)).decode().split("\n")
                if any(line.startswith(wanted) for line in lines):
                    return lines

        async with open_market(anvil) as market:
            await market.create()
            node, part = Node(on(market, settings), ME, "owner"), Recorder(1)
            async with playing(node, part):
                assert (await heard("READY=1"))[1].startswith("STATUS=not ready: waiting for the first block")
                assert await heard("STATUS=ready")
                assert await heard("WATCHDOG=1")
                assert node.upkeep.health().ready
                assert node.upkeep.balance is not None
            assert await heard("STOPPING=1")
        assert records(settings.home, "heartbeat")


async def test_what_only_people_can_mend_ends_it_with_its_words(anvil: chain_process.Chain, settings: Settings) -> None:
    async with open_market(anvil) as market:
        part = Recorder()

        async def fail(event: Event) -> None:
            raise DataError("dataset has 0 rows")

        part.react = fail
        with pytest.raises(DataError):
            await asyncio.wait_for(Node(on(market, settings), ME, "owner").run(part), PATIENCE)
        (failed,) = records(settings.home, "daemon.failed")
        assert (failed["msg"], failed["code"]) == ("dataset has 0 rows", "data")
        assert records(settings.home, "daemon.exit")[0]["data"] == {"reason": "error"}


async def test_trouble_with_the_chain_does_not(anvil: chain_process.Chain, settings: Settings) -> None:
    async with open_market(anvil) as market:
        part = Recorder()

        async def fail(event: Event) -> None:
            if len(part.events) < 3:
                raise ChainError("cannot reach RPC")
            part.finished = True

        part.react = fail
        await asyncio.wait_for(Node(on(market, settings), ME, "owner").run(part), PATIENCE)
        assert len(records(settings.home, "rpc.error")) == 2


async def test_a_task_that_cannot_be_read_yet_is_asked_for_again(
    anvil: chain_process.Chain, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The RPC is away while the one task of this daemon is looked for or read: said each time, and tried again."""
    monkeypatch.setattr(node_module, "PREPARE_SECONDS", 0.01)
    async with open_market(anvil) as market:
        part = Recorder(1)
        troubles: list[ChainError] = [
            ChainError("cannot reach RPC"), RpcAnswered("RPC answered with an error: rate limit"),
        ]  # fmt: skip

        async def prepare() -> None:
            if troubles:
                raise troubles.pop(0)
            part.finished = True

        part.prepare = prepare  # type: ignore[method-assign]
        await asyncio.wait_for(Node(on(market, settings), ME, "owner").run(part), PATIENCE)
        said = records(settings.home, "rpc.error")
        assert [(line["msg"], line["task"]) for line in said] == [
            ("cannot reach RPC", 1), ("RPC answered with an error: rate limit", 1),
        ]  # fmt: skip
        assert records(settings.home, "daemon.exit")[0]["data"] == {"reason": "finished"}


@pytest.mark.parametrize(
    "error",
    [ContractRefused("EscrowMismatch", {}), ChainMismatchError("RPC chain id 1"), UnknownTask("no task 7")],
    ids=lambda error: type(error).__name__,
)
async def test_what_the_chain_refuses_is_not_asked_for_again(
    anvil: chain_process.Chain, settings: Settings, error: ChainError
) -> None:
    async with open_market(anvil) as market:
        part = Recorder(7)

        async def prepare() -> None:
            raise error

        part.prepare = prepare  # type: ignore[method-assign]
        with pytest.raises(type(error)):
            await asyncio.wait_for(Node(on(market, settings), ME, "owner").run(part), PATIENCE)


async def test_a_joined_task_that_a_reorg_has_taken_back_is_waited_for(
    anvil: chain_process.Chain, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_module, "PREPARE_SECONDS", 0.01)
    async with open_market(anvil) as market:
        part, troubles = Recorder(7), [UnknownTask("no task 7")]

        async def prepare() -> None:
            if troubles:
                raise troubles.pop()
            part.finished = True

        part.prepare = prepare  # type: ignore[method-assign]
        node = Node(on(market, settings), ME, "owner")
        node.journal.nonce(7, bytes(32))
        await asyncio.wait_for(node.run(part), PATIENCE)


# ------------------------------------------------------------------- the right chain


async def test_a_folder_of_another_market_is_refused(anvil: chain_process.Chain, settings: Settings) -> None:
    async with open_market(anvil) as one, open_market(anvil) as two:
        part = Recorder()
        part.finished = True
        await Node(on(one, settings), ME, "owner").run(part)
        await Node(on(one, settings), ME, "owner").run(part)
        with pytest.raises(ChainMismatchError, match="belongs to another chain or market") as caught:
            await Node(on(two, settings), ME, "owner").run(part)
        assert "another --home" in caught.value.help
        assert caught.value.exit_code == 7


async def test_a_local_chain_that_was_started_anew_is_another_chain(
    anvil: chain_process.Chain, settings: Settings, tmp_path: Path
) -> None:
    """Same chain id, same addresses, another genesis: old commitments and nonces mean nothing there."""
    part = Recorder()
    part.finished = True
    async with open_market(anvil) as market:
        await Node(on(market, settings), ME, "owner").run(part)
        old = market.chain
    anew = chain_process.start_anvil(tmp_path / "anew", block_time=0, accounts=40, timestamp=1_900_000_000)
    async with anew as chain, open_market(chain) as market:
        assert (market.chain.chain_id, market.chain.market) == (old.chain_id, old.market)
        assert market.chain.run_name != old.run_name
        with pytest.raises(ChainMismatchError, match="another chain or market"):
            await Node(on(market, settings), ME, "owner").run(part)


async def test_a_wrong_chain_id_is_refused_at_once(anvil: chain_process.Chain, settings: Settings) -> None:
    async with open_market(anvil) as market:
        node = Node(replace(on(market, settings), chain_id=1), ME, "owner")
        with pytest.raises(ChainMismatchError, match="config expects 1"):
            await asyncio.wait_for(node.run(Recorder()), PATIENCE)


# --------------------------------------------------------------------------- watching


async def test_every_new_block_is_shown_with_members_as_they_are(
    anvil: chain_process.Chain, settings: Settings
) -> None:
    async with open_market(anvil) as market:
        await market.create()
        part = Recorder(1)
        async with playing(Node(on(market, settings), ME, "owner"), part):
            await eventually(lambda: len(part.snapshots()) == 1)
            assert part.snapshots()[0].members == ()
            for count in (1, 2):
                await market.join(market.owners[count])
                await eventually(lambda count=count: len(part.snapshots()[-1].members) == count)  # type: ignore[misc]
            seen = len(part.snapshots())
            await asyncio.sleep(0.3)
            assert len(part.snapshots()) == seen, "no block, no news"
            head = await market.chain.head()
            assert part.snapshots()[-1].block == head.number
            assert part.snapshots()[-1].time == head.time


async def test_with_a_finality_depth_the_state_stays_behind_the_head(
    anvil: chain_process.Chain, settings: Settings
) -> None:
    async with open_market(anvil) as market:
        await market.create()
        await anvil.mine(5)
        part = Recorder(1)
        async with playing(Node(replace(on(market, settings), finality_depth=3), ME, "owner"), part):
            await market.join(market.owners[0])
            head = await market.chain.head()
            await eventually(lambda: bool(part.snapshots()) and part.snapshots()[-1].block >= head.number)
            assert part.snapshots()[-1].state.member_count == 0
            await anvil.mine(3)
            await eventually(lambda: part.snapshots()[-1].state.member_count == 1)
            assert len(part.snapshots()[-1].members) == 1


async def test_after_a_reorg_members_are_read_again_also_when_all_else_looks_the_same(
    anvil: chain_process.Chain, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_market(anvil) as market:
        await market.create()
        part = Recorder(1)
        node = Node(on(market, settings), ME, "owner")
        gate, newest = asyncio.Lock(), node.chain.head

        async def head() -> Head:
            async with gate:
                return await newest()

        def members() -> list[bytes]:
            return [member.account for shown in part.snapshots()[-1:] for member in shown.members]

        monkeypatch.setattr(node.chain, "head", head)
        async with playing(node, part):
            before = await anvil.call("evm_snapshot")
            await market.join(market.owners[0])
            await eventually(lambda: members() == [market.owners[0].address])
            # The other branch: as many members, as high, as late in the task; but somebody else. Nobody looks between.
            async with gate:
                await anvil.call("evm_revert", before)
                await market.join(market.owners[1])
            await eventually(lambda: members() == [market.owners[1].address])


# ------------------------------------------------------------------------------- work


async def test_work_runs_beside_the_queue_and_comes_back_through_it(
    anvil: chain_process.Chain, settings: Settings
) -> None:
    async with open_market(anvil) as market:
        part, node = Recorder(), Node(on(market, settings), ME, "owner")
        outcomes: list[object] = []

        async def proceed(outcome: object) -> None:
            outcomes.append(outcome)

        def fail() -> int:
            raise DataError("no rows")

        async with playing(node, part):
            await eventually(lambda: bool(part.events))
            node.in_thread(None, lambda: 6 * 7, proceed)
            node.in_thread(None, fail, proceed)
            await eventually(lambda: len(outcomes) == 2)
        numbers = [outcome for outcome in outcomes if isinstance(outcome, int)]
        errors = [outcome for outcome in outcomes if isinstance(outcome, DataError)]
        assert (numbers, len(errors)) == ([42], 1)


async def test_each_part_hears_its_own_task_and_everybody_who_is_there(settings: Settings) -> None:
    node = Node(settings, ME, "owner")
    parts = [Recorder(1), Recorder(2)]
    runners = [node.runner(part) for part in parts]
    node._hear(Arrived(1, 1, bytes(20), b"one"))
    node._hear(Arrived(2, 1, bytes(20), b"two"))
    node._hear(Arrived(3, 1, bytes(20), b"nobody's"))
    node._hear(PresenceChanged(bytes(20), True))
    for runner in runners:
        await runner.handle_waiting()
    assert [[getattr(event, "payload", None) for event in part.events] for part in parts] == [
        [b"one", None],
        [b"two", None],
    ]
    assert node.unclaimed == 1 and "of no task that is played here" in settings.log_path.read_text()


async def test_a_part_that_takes_long_to_prepare_fills_no_memory(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time passes while it waits for a task, for months; and several parts share what may wait of messages."""
    monkeypatch.setattr(part_runner, "MAX_WAITING_EVENTS", 10)
    node = Node(settings, ME, "owner")
    part, other = Recorder(1), Recorder(2)
    runner = node.runner(part)
    node.runner(other)
    for _ in range(1000):
        runner.tick()
    assert runner.waiting == 1
    await runner.handle_waiting()
    runner.tick()
    assert (runner.waiting, part.events) == (1, [TimePassed()])
    for _ in range(100):
        node._hear(Arrived(1, 1, bytes(20), b"x"))
    assert runner.waiting == 5 and node.dropped == 96


async def test_a_tasks_transaction_makes_its_own_members_be_read_again(settings: Settings) -> None:
    node = Node(settings, ME, "owner")
    runners = [node.runner(Recorder(task)) for task in (1, 11)]
    for runner in runners:
        runner.view.members_changed = False
    await node._after_transaction(duty_key(1, "join"), None)
    assert [runner.view.members_changed for runner in runners] == [True, False]
    node.members_may_have_changed(11)
    assert runners[1].view.members_changed


async def test_no_more_work_at_once_than_there_are_workers_and_everybody_has_a_turn(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that always has more to do takes the worker in turns with the other."""
    monkeypatch.setattr(node_module, "MAX_WORKERS", 1)
    node = Node(settings, ME, "owner")
    order: list[int] = []
    runners = {task: node.runner(Recorder(task)) for task in (1, 2)}

    def order_work(task: int, left: int) -> None:
        async def proceed(_: object) -> None:
            if left > 1:
                order_work(task, left - 1)

        node.in_thread(task, lambda: order.append(task), proceed)

    order_work(1, 3)
    order_work(2, 2)
    async with asyncio.timeout(PATIENCE):
        while len(order) < 5:
            for runner in runners.values():
                await runner.handle_waiting()
            await asyncio.sleep(0.001)
    # Nobody's second comes before the other's first; what follows depends on who hears first of a free worker.
    assert order[:2] == [1, 2] and sorted(order) == [1, 1, 1, 2, 2]


async def test_work_of_a_part_that_has_ended_is_nothing_to_the_one_that_follows_it(settings: Settings) -> None:
    """The same task was taken up again meanwhile, and knows nothing of the round that was trained for."""
    node = Node(settings, ME, "owner")
    ended = node.runner(Recorder(1))
    done: list[object] = []

    async def proceed(outcome: object) -> None:
        done.append(outcome)

    node.in_thread(1, lambda: 42, proceed)
    node._runners.remove(ended)
    following = node.runner(Recorder(1))
    await asyncio.wait(node._work)
    assert (ended.waiting, following.waiting, done) == (1, 0, [])


async def test_a_bug_in_background_work_is_no_clean_exit(anvil: chain_process.Chain, settings: Settings) -> None:
    async with open_market(anvil) as market:
        part, node = Recorder(), Node(on(market, settings), ME, "owner")

        async def proceed(_: object) -> None:
            pass

        async with playing(node, part) as task:
            await eventually(lambda: bool(part.events))
            node.in_thread(None, lambda: 1 // 0, proceed)
            with pytest.raises(OmniLyticsError, match="ZeroDivisionError in background work"):
                await asyncio.wait_for(task, PATIENCE)
        assert records(settings.home, "daemon.bug")
        assert records(settings.home, "daemon.exit")[0]["data"] == {"reason": "error"}


async def test_a_bug_in_watching_the_chain_ends_it_too(
    anvil: chain_process.Chain, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And at once, though the part has nothing more to hear."""

    async def broken(_blocks: BlockWatch) -> None:
        raise ZeroDivisionError

    async def silent(_node: Node) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(BlockWatch, "run", broken)
    monkeypatch.setattr(Node, "_tick", silent)
    async with open_market(anvil) as market, playing(Node(on(market, settings), ME, "owner"), Recorder()) as task:
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(task, PATIENCE)


async def test_a_flood_of_messages_that_are_dropped_is_a_few_lines_and_exact_counts(
    anvil: chain_process.Chain, settings: Settings
) -> None:
    async with open_market(anvil) as market:
        node = Node(on(market, settings), ME, "owner")
        async with playing(node, Recorder()) as task:
            await eventually(lambda: settings.log_path.exists() and records(settings.home, "daemon.ready") != [])
            for _ in range(1000):
                node.broker._arrived("nothing/of/ours", b"")
            node._stop.set()
            await task
    told = records(settings.home, "message.dropped")
    assert len(told) < 10
    assert sum(line.get("data", {}).get("count", 1) for line in told) == node.broker.dropped == 1000
    # What was not told yet is told before the end.
    lines = (settings.home / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[-1])["event"] == "daemon.exit"


async def test_a_flood_from_the_broker_does_not_grow_without_bound(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_runner, "MAX_WAITING_EVENTS", 10)
    monkeypatch.setattr(node_module, "MAX_PRESENCES", 5)
    node = Node(settings, ME, "owner")
    runner = node.runner(Recorder(1))
    for number in range(100):
        node._hear(Arrived(1, 1, number.to_bytes(20, "big"), b"x"))
    assert runner.waiting == 10
    assert node.dropped == 90
    for number in range(100):
        node._hear(PresenceChanged(number.to_bytes(20, "big"), True))
    assert list(node.online) == [number.to_bytes(20, "big") for number in range(95, 100)]


async def test_the_log_never_shows_the_keys(settings: Settings) -> None:
    node = Node(settings, ME, "owner")
    node.log("a", ME.secrets()[0].hex(), seed=ME.secrets()[1], other=secret("no secret"))
    text = settings.log_path.read_text(encoding="utf-8")
    for value in ME.secrets():
        assert value.hex() not in text


# ------------------------------------------------------------------------------- lock


def test_a_folder_is_held_by_one_process_which_is_named(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with lock_home(home):
        assert home.stat().st_mode & 0o777 == 0o700
        with (
            pytest.raises(LockError, match=f"data directory {home} in use by pid {os.getpid()}") as caught,
            lock_home(home),
        ):
            pass
        assert caught.value.exit_code == 8
        program = HOLD + "    pass"
        told = subprocess.run([sys.executable, "-c", program, str(home)], capture_output=True, text=True, timeout=60)
        assert f"in use by pid {os.getpid()}" in told.stderr
    with lock_home(home):
        assert (home / "lock").read_text() == str(os.getpid())


def test_a_lock_dies_with_its_holder(tmp_path: Path) -> None:
    program = HOLD + "    print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LockError, match=f"pid {holder.pid}"), lock_home(tmp_path):
            pass
        holder.kill()
        holder.wait()
        with lock_home(tmp_path):
            pass
