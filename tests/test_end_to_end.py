"""The main job on real parts: chain, broker and a process for everybody; and an attacker who sees all of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox
from numpy.typing import NDArray
from onnxruntime import InferenceSession

from omnilytics.daemon.chain import Chain
from omnilytics.daemon.cli import cli
from omnilytics.daemon.journal import Journal
from omnilytics.daemon.keystore import load_keys, read_password
from omnilytics.daemon.ledger import Mechanism
from omnilytics.daemon.log import FIELDS
from omnilytics.daemon.model_files import read_model
from omnilytics.daemon.monitor.page import report_page
from omnilytics.daemon.monitor.panels import describe
from omnilytics.daemon.monitor.prometheus import exposition
from omnilytics.daemon.monitor.sources import LogSources
from omnilytics.daemon.monitor.terminal import whole_text
from omnilytics.daemon.monitor.watch import Watch
from omnilytics.daemon.protection.sealing import open_model
from omnilytics.daemon.protection.sides import Published
from omnilytics.daemon.spec import TaskSpec
from omnilytics.daemon.task_watch import TaskView, TaskWatch
from omnilytics.daemon.training.batch import fresh_batch
from omnilytics.daemon.training.data import read_npz
from omnilytics.peers.market import TaskParams, bits
from omnilytics.peers.quantise import dequantise
from scripts.broker_process import start_broker
from scripts.launcher.options import Kill, TestbedOptions
from scripts.launcher.run import run_testbed
from scripts.toolchain import ROOT
from tests.adversaries.eavesdropper import (
    BrokerTap,
    ChainTap,
    Knowledge,
    open_everything,
    registered_hellos,
    strip_known_masks,
    strip_known_pads,
)
from tests.adversaries.poisons import parse_poison

OPTIONS = TestbedOptions(protection="envelope", owners=9, faulty=0, rounds=2, seed=1, verify=True)
# Strict: one of the three groups is selected, and all are paid.
SECRET_HEAD = TestbedOptions(owners=9, faulty=0, strict=True, rounds=2, features=24, seed=1, verify=True)


@dataclass
class Witnessed:
    """A run, and everything that anybody could see of it."""

    folder: Path
    summary: dict[str, Any]
    broker: BrokerTap
    chain: ChainTap
    # The task as `model watch` shows it in the end.
    view: TaskView

    def home(self, name: str) -> Path:
        return self.folder / "participants" / name

    def owner_named(self, address: bytes) -> str:
        names = {owner["address"]: str(owner["name"]) for owner in self.summary["owners"]}
        return names["0x" + address.hex()]


async def _witness(options: TestbedOptions, folder: Path) -> Witnessed:
    broker_tap, chain_tap = BrokerTap(), ChainTap()
    views: list[TaskView] = []
    async with start_broker("embedded", folder / "broker") as broker:
        listening = asyncio.create_task(broker_tap.run(broker.host, broker.port))

        async def look(market: dict[str, Any]) -> None:
            await chain_tap.read(market, task=1)
            chain = Chain(market["rpc_url"], bytes.fromhex(market["market"][2:]))
            await chain.connect()
            views.append(await TaskWatch(chain, 1, folder / "run" / "participants" / "model" / "log.jsonl").look())
            await chain.close()

        options = replace(options, broker=broker.url, leak_secrets=True)
        summary = await run_testbed(options, folder / "run", look)
        listening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await listening
    return Witnessed(folder / "run", summary, broker_tap, chain_tap, views[-1])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Witnessed:
    return asyncio.run(_witness(OPTIONS, tmp_path_factory.mktemp("market")))


@pytest.fixture(scope="module")
def secret_head(tmp_path_factory: pytest.TempPathFactory) -> Witnessed:
    return asyncio.run(_witness(SECRET_HEAD, tmp_path_factory.mktemp("market")))


@pytest.fixture(params=["run", "secret_head"])
def each_run(request: pytest.FixtureRequest) -> Witnessed:
    """Pads by position, the contract selects; and pads by seat, the model owner selects."""
    witnessed = request.getfixturevalue(request.param)
    assert isinstance(witnessed, Witnessed)
    return witnessed


def _params(run: Witnessed) -> TaskParams:
    assert run.chain.params is not None
    return run.chain.params


def test_a_clean_run_trains_verifies_and_pays_everybody(run: Witnessed) -> None:
    summary = run.summary
    assert summary["schema"] == 1 and summary["status"] == "ended"
    assert summary["sums_verified"] is True
    assert [item["outcome"] for item in summary["rounds"]] == ["selected", "selected"]
    assert abs(summary["accuracy_final"] - summary["accuracy_plain"]) <= 0.01
    assert summary["accuracy_final"] > 0.6
    paid = {owner["paid_wei"] for owner in summary["owners"]}
    assert paid == {2 * OPTIONS.rate}
    assert all(owner["still_withdrawable_wei"] == 0 for owner in summary["owners"])
    assert json.loads((run.folder / "summary.json").read_text()) == summary
    assert (run.folder / "summary.png").stat().st_size > 1000


def test_a_watcher_sees_what_the_model_owner_measured_and_who_was_paid(each_run: Witnessed) -> None:
    view, rounds = each_run.view, each_run.summary["rounds"]
    assert view.over and view.status == "ended" and len(view.rows) == len(rounds) == 2
    for row, said in zip(view.rows, rounds, strict=True):
        assert (row.outcome, row.accuracy) == (said["outcome"], said["accuracy"])
        assert list(row.selected) == said["selected_groups"] and row.complete == (0, 1, 2)
        assert row.paid == 9 * _params(each_run).rate
    assert sum(row.paid for row in view.rows) == view.paid


@pytest.mark.parametrize("ending", [".safetensors", ".npz", ".onnx"])
def test_the_trained_model_is_fetched_and_predicts_as_it_was_measured(
    each_run: Witnessed, ending: str, tmp_path: Path
) -> None:
    home, out = each_run.home("model"), tmp_path / f"model{ending}"
    told = CliRunner().invoke(cli, ["model", "fetch", "--home", str(home), "--out", str(out), "--json"])
    assert told.exit_code == 0, told.output
    said = json.loads(told.stdout)["data"]
    assert float(said["accuracy"]) == each_run.summary["accuracy_final"] and said["round"] == "2"
    rows = read_npz(home / "data.npz")
    if ending == ".onnx":
        session = InferenceSession(out, providers=["CPUExecutionProvider"])
        (found,) = session.run(["class"], {"features": rows.features})
    else:
        found = read_model(out).predict(rows.features)
    # Under secret-head half of these rows select groups, and the other half measures.
    exact = 0.0 if each_run.view.rows[0].selected == (0, 1, 2) else 0.1
    assert abs((found == rows.labels).mean() - each_run.summary["accuracy_final"]) <= exact


def test_every_owners_ledger_has_what_it_posted(run: Witnessed) -> None:
    home = run.home("model")
    model_owner = load_keys(home / "keys", read_password(home / "password")).address
    for owner in run.summary["owners"]:
        with contextlib.closing(Journal(run.home(owner["name"]) / "journal.sqlite")) as journal:
            entries = journal.exposures()
        assert [(entry.task, entry.round) for entry in entries] == [(1, 1), (1, 2)]
        for entry in entries:
            assert entry.model_owner == model_owner and len(entry.market) == 20 and any(entry.market)
            assert (entry.group_size, entry.protection, entry.architecture) == (3, "envelope", "softmax")
            # A testbed's batches can be replayed.
            assert entry.mechanism == Mechanism(0.0, 64, entry.mechanism.rows, secret_batch=False)
            assert entry.mechanism.rows >= 64 and entry.epsilon is None


def test_the_model_owner_selects_on_the_chain_and_everybody_is_paid(secret_head: Witnessed) -> None:
    """Sums are those of the owners' statistics, integer for integer; the choice is on the chain and in no pay."""
    summary = secret_head.summary
    assert (summary["protection"], summary["status"], summary["sums_verified"]) == ("secret-head", "ended", True)
    for item in summary["rounds"]:
        complete, selected = secret_head.chain.selections[item["round"]]
        assert item["outcome"] == "selected"
        assert complete == 0b111 and bits(selected) == item["selected_groups"]
        assert len(item["selected_groups"]) == 1
    assert {owner["paid_wei"] for owner in summary["owners"]} == {2 * SECRET_HEAD.rate}
    assert all(owner["still_withdrawable_wei"] == 0 for owner in summary["owners"])
    # Nothing to settle, so nothing was paid for it.
    assert summary["settlement_wei"] == 0
    assert not any("settle" in item["gas"] for item in summary["rounds"])
    # Statistics are rounded to steps of 1 / 5461: it moves few rows of 180 over the border, if any.
    assert abs(summary["accuracy_final"] - summary["accuracy_plain"]) <= 0.03
    assert summary["accuracy_final"] > 0.5


def test_no_owner_used_a_row_twice(secret_head: Witnessed) -> None:
    """The two rounds' statistics are of the disjoint halves that the journalled row order and the file give."""
    for owner in secret_head.summary["owners"]:
        home = secret_head.home(owner["name"])
        dataset = read_npz(home / "data.npz")
        journal = Journal(home / "journal.sqlite")
        try:
            order = journal.get("row order of task 1")
            assert order is not None
            batches = [fresh_batch(dataset.row_count, 2, number, order) for number in (1, 2)]
            assert not set(batches[0]) & set(batches[1])
            assert journal.get("rows of task 1") == dataset.with_classes(_spec(secret_head).classes).digest
            for number, batch in zip((1, 2), batches, strict=True):
                published = _published(secret_head, number)
                rows = dataset.take(batch).with_classes(_spec(secret_head).classes)
                side = _spec(secret_head).side
                statistic = side.statistic(published, published.scaling.apply(rows.features), rows.labels)
                stored = journal.vector(1, number)
                assert stored is not None
                posted = dequantise(stored.quantised, 1.0, OPTIONS_Q_MAX)
                assert np.abs(posted - statistic).max() <= 1.001 / OPTIONS_Q_MAX
        finally:
            journal.close()


def _spec(run: Witnessed) -> TaskSpec:
    assert run.chain.spec is not None
    return run.chain.spec


def _published(run: Witnessed, round_number: int) -> Published:
    """What owners read in a round: the model owner's journal has the key."""
    key, _ = _round_secrets(run, round_number)
    plaintext = open_model(run.chain.payloads[round_number], key, run.chain.openings[round_number])
    return _spec(run).side.read(plaintext, round_number)


def _round_secrets(run: Witnessed, round_number: int) -> tuple[bytes, tuple[bytes, ...]]:
    journal = Journal(run.home("model") / "journal.sqlite")
    try:
        secrets = journal.round_secrets(1, round_number)
        assert secrets is not None
        return secrets
    finally:
        journal.close()


def test_money_is_conserved_to_the_wei(each_run: Witnessed) -> None:
    s = each_run.summary
    assert s["escrow_wei"] == s["paid_wei"] + s["settlement_wei"] + s["refunded_wei"] + s["locked_wei"]
    assert s["locked_wei"] == 0
    assert s["paid_wei"] == sum(owner["paid_wei"] for owner in s["owners"])
    assert s["stakes_in_wei"] == s["stakes_out_wei"] > 0
    assert s["slashed_wei"] == s["compensation_wei"] == s["burned_wei"] == 0


def test_no_transaction_is_over_the_limits(each_run: Witnessed) -> None:
    assert 0 < each_run.summary["max_gas"] <= 12_000_000
    assert 0 < each_run.summary["max_calldata_bytes"] <= 120_000


def test_every_log_line_has_the_fields_and_every_daemon_says_goodbye(run: Witnessed) -> None:
    logs = sorted((run.folder / "logs").glob("*.jsonl"))
    assert len(logs) == OPTIONS.owners + 1
    for path in logs:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert [record["seq"] for record in records] == list(range(1, len(records) + 1))
        assert len({record["boot_id"] for record in records}) == 1
        for record in records:
            assert set(record) <= set(FIELDS), set(record) - set(FIELDS)
            assert {"v", "ts", "mono", "seq", "boot_id", "peer", "role", "event", "level", "msg"} <= set(record)
        assert records[-1]["event"] == "daemon.exit"
        assert {"daemon.ready", "heartbeat", "phase.enter"} <= {record["event"] for record in records}


def _all_secrets(run: Witnessed) -> set[bytes]:
    known = Knowledge()
    for owner in run.summary["owners"]:
        known.collude(run.home(owner["name"]) / "leak.jsonl")
    journal = Journal(run.home("model") / "journal.sqlite")
    known.collude_model_owner(journal, 1, (1, 2))
    protection = journal.get("protection of task 1")
    journal.close()
    assert protection is not None
    secrets = known.all_secrets() | {protection}
    for name in ("model", *(owner["name"] for owner in run.summary["owners"])):
        home = run.home(name)
        keys = load_keys(home / "keys", read_password(home / "password"))
        secrets |= set(keys.secrets())
    # seeds of 9 pairs a round, pads, keys of both kinds, model keys
    assert len(secrets) >= 2 * (9 + _params(run).pad_count(3) + 1 + 9) + 2 * 10
    return secrets


def test_no_secret_is_ever_said(each_run: Witnessed) -> None:
    """Not to the chain, not to the broker, not in any log: neither as bytes nor as hex."""
    run = each_run
    secrets = _all_secrets(run)
    logs = b"".join(path.read_bytes() for path in (run.folder / "logs").iterdir())
    said = b"".join(run.chain.raw) + b"".join(payload for _, payload in run.broker.messages) + logs
    assert len(run.chain.raw) > 100 and len(run.broker.messages) > 100
    for secret in secrets:
        assert secret not in said
        assert secret.hex().encode() not in said.lower()
    # The search can find: what is public is there.
    assert run.chain.openings[1].ctx.hex().encode() in said.hex().encode()


def test_secrets_that_a_daemon_tries_to_log_are_cut_out_of_every_log(run: Witnessed) -> None:
    """Planted on purpose, in each way in which bytes could be written; found in none of the run's logs, nor in what
    the monitor makes of them."""
    secrets = _all_secrets(run)
    planted = 0
    for path in sorted((run.folder / "logs").glob("owner-*.jsonl")):
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        babbled = [record for record in records if record["event"] == "adversary.babbles"]
        assert [record["round"] for record in babbled] == [1, 2]
        for record in babbled:
            planted += record["data"]["planted"]
            # Words, bytes and repr of all of them, the tx, the code, and the pair seeds by name.
            assert json.dumps(record).count("[redacted]") == 3 * record["data"]["planted"] + 2 + 2
    assert planted == 9 * 2 * 6
    _, outputs = _monitored(run.folder)
    said = b"".join(path.read_bytes() for path in (run.folder / "logs").iterdir()) + outputs
    for secret in secrets:
        words = repr(secret)[2:-1]
        for way in (words, json.dumps(words)[1:-1], secret.hex(), secret.hex().upper()):
            assert way.encode() not in said
        assert secret not in said


def _monitored(folder: Path) -> tuple[dict[str, Any], bytes]:
    """What the monitor makes of a run's logs: its view, and everything that it can write."""
    sources, watch = LogSources.named([str(folder)]), Watch()
    watch.take(sources.new_records())
    now = watch.market.last_ts
    view = describe(watch, now, watch.look(now), sources.files)
    text = "\n".join(line.plain for line in whole_text(view, 120))
    return view, (json.dumps(view) + report_page(view) + exposition(view) + text).encode()


def test_the_monitor_tells_from_the_logs_what_the_chain_says(run: Witnessed) -> None:
    view, _ = _monitored(run.folder)
    assert view["alerts"] == []
    (task,), summary = view["tasks"], run.summary
    assert [entry["accuracy"] for entry in task["accuracy"][1:]] == [item["accuracy"] for item in summary["rounds"]]
    assert [row["paid"] for row in task["funnel"]] == [OPTIONS.owners] * 2
    money = task["money"]
    assert money["conserved"] is True
    for name in ("escrow", "paid", "refunded", "locked", "stakes_in", "stakes_out", "slashed", "burned"):
        assert money[f"{name}_wei"] == summary[f"{name}_wei"], name
    assert money["settlement_paid_wei"] == summary["settlement_wei"]
    paid = {owner["peer"]: owner["earned_wei"] for owner in money["owners"]}
    assert paid == {owner["address"]: owner["paid_wei"] for owner in summary["owners"]}
    for told, item in zip(task["gas"]["rounds"], summary["rounds"], strict=True):
        gas = {name: use["gas"] for name, use in told["functions"].items()}
        assert gas == {name: amount for name, amount in item["gas"].items() if name != "withdraw"}
    honesty = view["honesty"]
    assert honesty["bad_lines"] == honesty["missing_lines"] == honesty["bytes_behind"] == 0
    assert honesty["unheard"] == []


def test_everything_that_a_daemon_says_is_in_the_schema(run: Witnessed) -> None:
    """docs/log-schema.md names every event of a run, and its fields."""
    text = (ROOT / "docs" / "log-schema.md").read_text(encoding="utf-8")
    for path in sorted((run.folder / "logs").glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            if record["event"].startswith("adversary."):
                continue
            assert f"`{record['event']}`" in text, record["event"]
            for name in record.get("data", {}):
                assert f"`{name}`" in text, (record["event"], name)


def _group_of(run: Witnessed, number: int) -> list[Any]:
    return sorted((m for m in run.chain.members if m.seat // 3 == number), key=lambda member: member.seat)


def _quantised(run: Witnessed, account: bytes, round_number: int) -> np.ndarray[Any, Any]:
    journal = Journal(run.home(run.owner_named(account)) / "journal.sqlite")
    try:
        stored = journal.vector(1, round_number)
        assert stored is not None
        return stored.quantised
    finally:
        journal.close()


@pytest.mark.parametrize("round_number", [1, 2])
@pytest.mark.parametrize("victim_position", [0, 1, 2])
def test_an_attacker_with_everything_but_two_owners_secrets_does_not_find_a_vector(
    each_run: Witnessed, victim_position: int, round_number: int
) -> None:
    """The model owner, all outsiders and n - 2 mates collude against a victim: what is left of its vector is
    uniform noise, whatever known secret is tried for the missing seed. One mate more, and it falls."""
    run = each_run
    group = _group_of(run, 0)
    victim = group.pop(victim_position)
    honest_mate, *colluding = group
    known = Knowledge()
    for member in run.chain.members:
        if member.account not in (victim.account, honest_mate.account):
            known.collude(run.home(run.owner_named(member.account)) / "leak.jsonl")
    journal = Journal(run.home("model") / "journal.sqlite")
    known.collude_model_owner(journal, 1, (1, 2))
    journal.close()
    truth = _quantised(run, victim.account, round_number)

    for attempt in strip_known_masks(run.chain, known, round_number, victim, sorted(known.all_secrets())):
        assert not np.array_equal(attempt, truth)
        # Uniform over 2^16: a lane of an honest update is within +-q_max, a twelfth of the ring, nearly always.
        inside = np.mean(np.abs(attempt) <= OPTIONS_Q_MAX)
        assert inside < 0.5, "the residual looks like an update"
        assert abs(np.corrcoef(attempt, truth)[0, 1]) < 0.25
    assert len(colluding) == 1

    # The attack itself works: with the last mate's secrets the vector lies open.
    known.collude(run.home(run.owner_named(honest_mate.account)) / "leak.jsonl")
    assert np.array_equal(strip_known_masks(run.chain, known, round_number, victim)[0], truth)


OPTIONS_Q_MAX = (2**14 - 1) // 3
Sums = NDArray[np.int64]


def test_differences_between_rounds_give_nothing_away_either(each_run: Witnessed) -> None:
    run = each_run
    group = _group_of(run, 0)
    victim, honest_mate = group[0], group[1]
    known = Knowledge()
    for member in run.chain.members:
        if member.account not in (victim.account, honest_mate.account):
            known.collude(run.home(run.owner_named(member.account)) / "leak.jsonl")
    journal = Journal(run.home("model") / "journal.sqlite")
    known.collude_model_owner(journal, 1, (1, 2))
    journal.close()
    first, second = (strip_known_masks(run.chain, known, number, victim)[0] for number in (1, 2))
    truth = _quantised(run, victim.account, 1) - _quantised(run, victim.account, 2)
    assert not np.array_equal(first - second, truth)
    assert abs(np.corrcoef(first - second, truth)[0, 1]) < 0.25


def _public_words(run: Witnessed, round_number: int) -> list[bytes]:
    """Whatever of 32 bytes anybody can read off the chain, to be tried as a key or seed."""
    opening = run.chain.openings[round_number]
    named = [opening.ctx, opening.base_ctx, opening.model_commit, opening.key_hash, opening.payload_hash]
    return [*named, *opening.pad_hashes, *(member.box_key for member in run.chain.members), bytes(32)]


def _opens(run: Witnessed, round_number: int, keys: Iterable[bytes]) -> int:
    """How many of the keys open a round's payload."""
    opened = 0
    for key in keys:
        with contextlib.suppress(CryptoError):
            SecretBox(key).decrypt(run.chain.payloads[round_number])
            opened += 1
    return opened


def _true_sum(run: Witnessed, group: int, round_number: int) -> Sums:
    total: Sums = np.sum([_quantised(run, member.account, round_number) for member in _group_of(run, group)], axis=0)
    return total


def _is_noise(run: Witnessed, found: Sums, truth: Sums, bound: int) -> bool:
    """Whether values are spread over the ring as uniform ones are, and say nothing of the truth. bound: the largest
    honest magnitude."""
    spread = float(np.mean(np.abs(found) <= bound))
    fair = (2 * bound + 1) / 2**16
    # Six standard deviations of either.
    values = len(truth)
    near = 6 * np.sqrt(fair * (1 - fair) / values)
    return abs(spread - fair) < near and bool(abs(np.corrcoef(found, truth)[0, 1]) < 6 / np.sqrt(values))


def _alone(run: Witnessed, account: bytes) -> Knowledge:
    """What one owner has: its own secrets of every round."""
    known = Knowledge()
    known.collude(run.home(run.owner_named(account)) / "leak.jsonl")
    return known


def test_an_outsider_opens_nothing(each_run: Witnessed) -> None:
    """Who has every transaction, event and broker message, and no key: no envelope opens, no payload opens, and what
    is published is nowhere in clear. It learns who takes part, which groups are complete and selected, and sizes."""
    run = each_run
    publics = [member.box_key for member in run.chain.members]
    stranger = bytes(range(1, 33))
    assert open_everything(run.broker.messages, [stranger], publics) == 0
    # A member's registered key opens its own hellos, so the trial is a real one ...
    some = run.summary["owners"][0]
    home = run.home(some["name"])
    own = load_keys(home / "keys", read_password(home / "password")).box.secret
    hellos = registered_hellos(run.broker.messages)
    assert open_everything(hellos, [own], publics) > 0
    # ... and nothing that is not a hello, not even its own: those keys were ephemeral.
    others = [message for message in run.broker.messages if message not in hellos]
    assert open_everything(others, [own], publics) == 0

    said = b"".join(run.chain.raw) + b"".join(payload for _, payload in run.broker.messages)
    for number in (1, 2):
        assert _opens(run, number, _public_words(run, number)) == 0
        key, _ = _round_secrets(run, number)
        assert _opens(run, number, [key]) == 1
        assert run.chain.payloads[number] in said, "the search can find"
        plaintext = open_model(run.chain.payloads[number], key, run.chain.openings[number])
        windows = {plaintext[start : start + 32] for start in range(0, len(plaintext) - 32, 4)}
        # Zeros are everywhere; what is left is of the map, the weights or the scaling.
        telling = [window for window in windows if len(set(window)) >= 16]
        assert len(telling) > 20 and not any(window in said for window in telling)


@pytest.mark.parametrize("round_number", [1, 2])
@pytest.mark.parametrize("group", [0, 1, 2])
def test_an_outsider_reads_no_sum(each_run: Witnessed, group: int, round_number: int) -> None:
    """Pair masks cancel in a group's sum, its pads do not: it is noise, whatever public word is tried for a pad."""
    run = each_run
    truth = _true_sum(run, group, round_number)
    for found in strip_known_pads(run.chain, Knowledge(), round_number, group, _public_words(run, round_number)):
        assert _is_noise(run, found, truth, 3 * OPTIONS_Q_MAX)
    known = Knowledge()
    known.pads[round_number] = _round_secrets(run, round_number)[1]
    assert np.array_equal(strip_known_pads(run.chain, known, round_number, group)[0], truth), "the pads open it"


def test_how_two_groups_differ_is_public_only_where_the_contract_selects(
    run: Witnessed, secret_head: Witnessed
) -> None:
    """It has to be there: Multi-Krum is computed from the differences. Under pads by seat they are noise."""
    for witnessed, public in ((run, True), (secret_head, False)):
        sums = [strip_known_pads(witnessed.chain, Knowledge(), 1, group)[0] for group in (0, 1)]
        truth = _true_sum(witnessed, 0, 1) - _true_sum(witnessed, 1, 1)
        difference = (sums[0] - sums[1]).astype(np.uint16).view(np.int16).astype(np.int64)
        assert np.array_equal(difference, truth) == public
        assert _is_noise(witnessed, difference, truth, 3 * OPTIONS_Q_MAX) == (not public)


@pytest.mark.parametrize("round_number", [1, 2])
def test_an_owner_with_all_outsiders_reads_what_is_published_and_nothing_of_others(
    each_run: Witnessed, round_number: int
) -> None:
    """A registered owner that keeps all its keys and seeds, and is handed everything that was ever public.

    Envelope: it reads the model of every round (so the protection says), its own pads and its own seeds.
    Secret-head: it reads the feature map, the same in every round, its pads and seeds; nothing of what was learnt.
    In both it opens only envelopes from and to itself, and finds neither a mate's or another owner's vector nor any
    group's sum: not even its own group's, of which it knows a third.
    """
    run = each_run
    spy = _group_of(run, 0)[0]
    known = _alone(run, spy.account)
    secrets = known.rounds[spy.account, round_number]
    guesses = sorted(known.all_secrets())

    key = bytes.fromhex(secrets["model_key"])
    opening = run.chain.openings[round_number]
    plaintext = open_model(run.chain.payloads[round_number], key, opening)
    published = _spec(run).side.read(plaintext, round_number)
    first = _published(run, 1)
    same_every_round = _spec(run).protection == "secret-head"
    assert (published.digest == first.digest) == (same_every_round or round_number == 1)
    # A round's key opens that round's payload alone.
    assert _opens(run, 3 - round_number, guesses) == 1, "its own key of the other round"
    assert _opens(run, 3 - round_number, [key]) == 0
    if same_every_round:
        journal = Journal(run.home("model") / "journal.sqlite")
        newest = journal.newest_model(1)
        journal.close()
        assert newest is not None
        head = newest[1]
        assert np.any(head) and head.astype("<f4").tobytes()[:32] not in plaintext

    for member in run.chain.members:
        attempts = strip_known_masks(run.chain, known, round_number, member, guesses)
        truth = _quantised(run, member.account, round_number)
        if member.account != spy.account:
            assert all(_is_noise(run, attempt, truth, OPTIONS_Q_MAX) for attempt in attempts)
    for group in range(3):
        truth = _true_sum(run, group, round_number)
        for attempt in strip_known_pads(run.chain, known, round_number, group, guesses):
            assert _is_noise(run, attempt, truth, 3 * OPTIONS_Q_MAX)

    name = spy.account.hex()
    theirs = [(topic, payload) for topic, payload in run.broker.messages if "/in/" in topic and name not in topic]
    boxes = [secrets["registered_secret"], secrets["ephemeral_secret"]]
    publics = [member.box_key for member in run.chain.members]
    assert len(theirs) > 50 and open_everything(theirs, map(bytes.fromhex, boxes), publics) == 0


def test_owners_of_other_groups_open_a_sum_only_where_pads_are_common(run: Witnessed, secret_head: Witnessed) -> None:
    """One group's owners together have every pad of an envelope's round, and with it every group's sum: a residual
    risk that docs/security.md names. Under pads by seat they have their own group's alone."""
    for witnessed, common in ((run, True), (secret_head, False)):
        known = Knowledge()
        for member in _group_of(witnessed, 1):
            known.collude(witnessed.home(witnessed.owner_named(member.account)) / "leak.jsonl")
        own = strip_known_pads(witnessed.chain, known, 1, 1)[0]
        assert np.array_equal(own, _true_sum(witnessed, 1, 1))
        truth = _true_sum(witnessed, 0, 1)
        guesses = sorted(known.all_secrets())
        found = [np.array_equal(sums, truth) for sums in strip_known_pads(witnessed.chain, known, 1, 0, guesses)]
        assert any(found) == common


def test_perturbed_trains_verifies_and_pays_everybody(tmp_path: Path) -> None:
    options = replace(OPTIONS, protection="perturbed", model="mlp:8", lane_bits=32)
    summary = asyncio.run(run_testbed(options, tmp_path / "run"))
    assert (summary["protection"], summary["status"], summary["sums_verified"]) == ("perturbed", "ended", True)
    assert [item["outcome"] for item in summary["rounds"]] == ["selected"] * 2
    assert {owner["paid_wei"] for owner in summary["owners"]} == {2 * options.rate}
    # Two rounds learn little; but it is what the same rounds in one process learn.
    assert abs(summary["accuracy_final"] - summary["accuracy_plain"]) <= 0.02
    assert summary["locked_wei"] == summary["settlement_wei"] == 0


def test_a_model_owner_that_vanishes_instead_of_selecting_pays_every_complete_group(tmp_path: Path) -> None:
    """Its last word was the opening: at the deadline the owners end the round and all complete groups are paid. Back
    again, it selects for itself, from the same sums."""
    options = replace(SECRET_HEAD, rounds=1, phase_seconds=20, kills=(Kill("model", "settle", 1),))
    summary = asyncio.run(run_testbed(options, tmp_path / "run"))
    assert summary["status"] == "ended"
    (item,) = summary["rounds"]
    assert item["outcome"] == "late" and item["void_groups"] == []
    assert len(item["selected_groups"]) == 1
    assert {owner["paid_wei"] for owner in summary["owners"]} == {options.rate}
    assert all(owner["still_withdrawable_wei"] == 0 for owner in summary["owners"])
    assert summary["locked_wei"] == 0
    assert summary["escrow_wei"] == summary["paid_wei"] + summary["refunded_wei"]
    assert summary["stakes_in_wei"] == summary["stakes_out_wei"]
    assert summary["sums_verified"] is True and item["accuracy"] is not None


def test_poison_and_deaths_in_one_run(tmp_path: Path) -> None:
    """A hostile group (not the killed owner's) is never selected, mates of an owner that dies after its commitment
    are compensated, and when the model owner dies before settling the owners settle, are paid, and end the task."""
    options = replace(
        OPTIONS,
        owners=18,
        faulty=1,
        rounds=3,
        phase_seconds=20,
        poison=parse_poison("noise:1"),
        kills=(Kill("owner", "post", 2), Kill("model", "settle", 3)),
    )
    summary = asyncio.run(run_testbed(options, tmp_path / "run"))
    killed = summary["owners"][-1]
    poisoned = [owner for owner in summary["owners"] if owner["poisoned"]]
    assert len(poisoned) == 3 and all(owner["paid_wei"] == 0 for owner in poisoned)
    (hostile,) = {owner["group"] for owner in poisoned}
    assert hostile != killed["group"]
    assert [item["outcome"] for item in summary["rounds"]] == ["selected"] * 3
    for item in summary["rounds"]:
        assert hostile not in item["selected_groups"] and len(item["selected_groups"]) >= 4
    assert killed["group"] in summary["rounds"][1]["void_groups"]
    assert killed["address"] in summary["rounds"][1]["absent_owners"]
    slash = 3 * options.rate
    assert summary["slashed_wei"] == summary["compensation_wei"] == slash and summary["burned_wei"] == 0
    assert summary["stakes_in_wei"] == summary["stakes_out_wei"] + slash
    assert summary["locked_wei"] == 0
    s = summary
    assert s["escrow_wei"] == s["paid_wei"] + s["settlement_wei"] + s["refunded_wei"]
    view, _ = _monitored(tmp_path / "run")
    (task,) = view["tasks"]
    assert view["alerts"] == [] and task["money"]["conserved"] is True
    assert [entry["group"] for entry in task["krum"]["groups"] if entry["verdict"] == "poisoned"] == [hostile]
    told = {owner["peer"]: owner for owner in task["money"]["owners"]}
    assert {peer for peer, owner in told.items() if owner["slashed_rounds"]} == {killed["address"]}
    assert told[killed["address"]]["slashed_rounds"] == told[killed["address"]]["died_in_rounds"] == [2]
    assert {p: o["earned_wei"] for p, o in told.items()} == {o["address"]: o["paid_wei"] for o in summary["owners"]}
    assert summary["sums_verified"] is True


def test_vectors_over_the_broker_cross_the_chain_once(tmp_path: Path) -> None:
    """The same run as with posts, and nobody has posted."""
    summary = asyncio.run(run_testbed(replace(OPTIONS, delivery="broker", rounds=1), tmp_path / "run"))
    assert summary["status"] == "ended" and summary["sums_verified"] is True
    assert [item["outcome"] for item in summary["rounds"]] == ["selected"]
    assert abs(summary["accuracy_final"] - summary["accuracy_plain"]) <= 0.01
    assert {owner["paid_wei"] for owner in summary["owners"]} == {OPTIONS.rate}
    assert summary["slashed_wei"] == summary["locked_wei"] == 0
    sent = _sent(tmp_path / "run")
    assert "post" not in sent["owner"] and "settle" not in sent["owner"]
    assert sent["model"].count("acknowledge") == 1 and "settle" in sent["model"]


def _sent(folder: Path) -> dict[str, list[str]]:
    """Functions of the transactions that were mined, by the role of who sent them."""
    found: dict[str, list[str]] = {"owner": [], "model": []}
    for path in (folder / "participants").glob("*/log.jsonl"):
        for line in map(json.loads, path.read_text().splitlines()):
            if line["event"] == "tx.mined":
                found[line["role"]].append(line["msg"].split(":")[0])
    return found


def test_owners_of_a_model_owner_that_ignores_one_and_then_vanishes_are_all_paid(tmp_path: Path) -> None:
    """Round 1: whom it does not acknowledge posts, and the round is as any other. Round 2: it acknowledges and is gone,
    and so are the vectors: nobody can settle, and every complete group is paid."""
    options = replace(
        OPTIONS,
        delivery="broker",
        ignored_owners=1,
        phase_seconds=16,
        kills=(Kill("model", "settle", 2),),
    )
    summary = asyncio.run(run_testbed(options, tmp_path / "run"))
    assert summary["status"] == "ended"
    assert [item["outcome"] for item in summary["rounds"]] == ["selected", "late"]
    assert all(item["void_groups"] == [] for item in summary["rounds"])
    assert {owner["paid_wei"] for owner in summary["owners"]} == {2 * options.rate}
    assert summary["slashed_wei"] == summary["locked_wei"] == 0
    sent = _sent(tmp_path / "run")
    assert sent["owner"].count("post") == 2 and "settle" not in sent["owner"]
    # Back again it has the vectors in its journal, and on the chain the one that was posted.
    assert summary["sums_verified"] is True
