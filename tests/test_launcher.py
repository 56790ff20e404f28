"""The testbed's own parts: its options, how it reads logs, and that its tables tell the truth."""

import asyncio
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omnilytics.daemon.commands.owner import run as honest_owner
from omnilytics.daemon.protection.catalogue import protection_named
from omnilytics.daemon.protection.secret_head import least_group_rows
from omnilytics.daemon.training.data import Dataset
from omnilytics.peers.errors import ConfigurationError
from scripts import testbed_main
from scripts.launcher.chaos import Chaos, CutableProxy, Mishap, outcomes
from scripts.launcher.follow import LogReader, Progress, Record
from scripts.launcher.options import Kill, TestbedOptions, parse_kill
from scripts.launcher.participants import (
    Participant,
    fill_in,
    load_data,
    model_arguments,
    network_arguments,
    owner_seed,
    thin_sums,
    write_participants,
)
from scripts.launcher.summary import Story
from scripts.launcher.tables import money_lines, owner_table, report, round_table
from scripts.processes import ManagedProcess
from tests.adversaries.owner import run as hostile_owner
from tests.adversaries.poisons import PoisonOrder

OPTIONS = TestbedOptions(rounds=5, depth=1)

# ------------------------------------------------------------------------- options


def test_the_defaults_are_fine() -> None:
    OPTIONS.check()
    assert OPTIONS.groups == 6
    assert replace(OPTIONS, owners=20).groups == 6


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"group_size": 2}, "group size 2 below minimum 3"),
        ({"group_size": 0}, "group size 0 below minimum 3"),
        ({"owners": 14}, "4 groups cannot tolerate f=1; need 5"),
        ({"faulty": 2}, "6 groups cannot tolerate f=2; need 7"),
        ({"rounds": 0}, "0 rounds are none"),
        ({"data": Path("/nowhere/at/all.npz")}, "no file /nowhere/at/all.npz"),
        ({"poison": PoisonOrder("noise", 7)}, "7 poisoned groups of 6"),
        ({"poison_owners": PoisonOrder("noise", 19)}, "19 poisoned owners of 18"),
        ({"kills": (Kill("model", "settle", 6),)}, "--kill in round 6 of 5"),
        ({"kills": (Kill("model", "settle", 3),) * 2}, "only one model owner to kill"),
        ({"kills": (Kill("owner", "post", 3),) * 19}, "19 kills of 18 owners"),
    ],
)
def test_what_cannot_work_is_refused_in_numbers(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        replace(OPTIONS, **changes).check()
    assert caught.value.help


def test_so_many_owners_as_the_help_says_are_enough() -> None:
    with pytest.raises(ConfigurationError) as caught:
        replace(OPTIONS, owners=3, faulty=2, group_size=4).check()
    assert "at least 28 --owners" in caught.value.help
    replace(OPTIONS, owners=28, faulty=2, group_size=4).check()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model@settle", Kill("model", "settle", 3)),
        ("owner@post", Kill("owner", "post", 3)),
        ("owner@post:4", Kill("owner", "post", 4)),
    ],
)
def test_a_kill_is_read(text: str, expected: Kill) -> None:
    assert parse_kill(text) == expected


def test_several_kills_are_of_several_owners() -> None:
    kills = (Kill("owner", "post", 3), Kill("model", "settle", 4), Kill("owner", "post", 5))
    options = replace(OPTIONS, kills=kills)
    options.check()
    assert options.killed_owners == {17: kills[0], 16: kills[2]}
    assert replace(options, kills=()).killed_owners == {}


@pytest.mark.parametrize(
    "text", ["", "model", "model@post", "owner@settle", "owner@post:", "owner@post:x", "owner@post:-1", "@", "a@b:1"]
)
def test_what_is_no_kill_is_refused(text: str) -> None:
    if text == "owner@post:":
        assert parse_kill(text).round == 3
        return
    with pytest.raises(ConfigurationError, match="is no kill"):
        parse_kill(text)


def test_a_kill_without_a_round_is_in_one_that_is_played() -> None:
    """The default market has one round."""
    assert [parse_kill("model@settle", rounds).round for rounds in (1, 2, 3, 20)] == [1, 2, 3, 3]
    assert parse_kill("model@settle:4", 1).round == 4, "what is asked for is asked for, and refused"


def chosen(*arguments: str) -> TestbedOptions:
    """The options that `scripts/testbed` makes of a command line."""
    context = testbed_main.main.make_context("testbed", list(arguments))
    rest = {name: value for name, value in context.params.items() if name not in ("runs", "as_json")}
    options = testbed_main._options(**rest)
    options.check()
    return options


@pytest.mark.parametrize(
    ("protection", "rounds", "lane_bits"), [("secret-head", 1, 16), ("perturbed", 20, 32), ("envelope", 20, 16)]
)
def test_defaults_are_the_protections(protection: str, rounds: int, lane_bits: int) -> None:
    options = chosen("--protection", protection)
    assert (options.protection, options.rounds, options.lane_bits) == (protection, rounds, lane_bits)
    assert lane_bits >= protection_named(protection).least_lane_bits
    options = chosen("--protection", protection, "--rounds", "7", "--lane-bits", "32")
    assert (options.rounds, options.lane_bits) == (7, 32)


def test_without_options_it_is_secret_head() -> None:
    assert chosen() == TestbedOptions()
    assert TestbedOptions().protection == "secret-head"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--protection", "envelope"],
        ["--poison", "noise:1"],
        ["--kill", "model@settle"],
        ["--kill", "owner@post", "--kill", "model@settle"],
        ["--owners", "30", "--group-size", "5", "--model", "mlp:64,32"],
    ],
    ids=" ".join,
)
def test_the_helps_examples_can_be_run(arguments: list[str]) -> None:
    options = chosen(*arguments)
    assert all(1 <= kill.round <= options.rounds for kill in options.kills)


# -------------------------------------------------------------------- participants


@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("owners", [9, 18, 30])
def test_features_are_the_widest_that_the_owners_rows_hide_behind(owners: int, rounds: int) -> None:
    options = TestbedOptions(owners=owners, faulty=0, rounds=rounds)
    data, _ = load_data(options)
    filled = fill_in(options, data)
    per_round = min(part.row_count for part in data) // rounds
    assert filled.batch_size == per_round and filled.features is not None
    assert thin_sums(filled, data) == 0
    together = per_round * options.group_size
    assert least_group_rows(64, filled.features, 10) <= together < least_group_rows(64, filled.features + 8, 10)


def test_what_is_asked_for_is_left_as_it_is() -> None:
    data, _ = load_data(OPTIONS)
    asked = replace(OPTIONS, features=40, batch_size=3)
    assert fill_in(asked, data) == asked
    trunk = fill_in(replace(OPTIONS, model="mlp:16"), data)
    assert trunk.features is None and trunk.batch_size == min(part.row_count for part in data) // OPTIONS.rounds
    for protection in ("envelope", "perturbed"):
        other = replace(OPTIONS, protection=protection)
        assert fill_in(other, data) == other


def test_more_rounds_than_rows_are_refused_in_numbers() -> None:
    data, _ = load_data(OPTIONS)
    least = min(part.row_count for part in data)
    fill_in(replace(OPTIONS, rounds=least), data)
    with pytest.raises(ConfigurationError, match=f"fewer rows than {least + 1} rounds") as caught:
        fill_in(replace(OPTIONS, rounds=least + 1), data)
    assert "--rounds" in caught.value.help
    fill_in(replace(OPTIONS, rounds=least + 1, protection="envelope"), data)


@pytest.mark.parametrize(
    ("changes", "lacking"),
    [
        ({"protection": "envelope", "batch_size": 1}, 0),
        ({"protection": "perturbed", "model": "mlp:8"}, 0),
        ({"protection": "perturbed", "model": "mlp:8", "batch_size": 5}, 4 * 8 - 3 * 5),
        ({"features": 40, "batch_size": 30}, 0),
        ({"features": 40, "batch_size": 10}, 2 * 41 - 3 * 10),
        ({"model": "mlp:20,30", "batch_size": 10}, 2 * 31 - 3 * 10),
    ],
    ids=str,
)
def test_thin_sums_are_told_in_rows(changes: dict[str, Any], lacking: int) -> None:
    data, _ = load_data(OPTIONS)
    assert thin_sums(fill_in(replace(OPTIONS, **changes), data), data) == lacking


@pytest.mark.parametrize("thin", [False, True])
def test_the_owners_commands_are_the_programs(tmp_path: Path, thin: bool) -> None:
    """Honest, hostile and killed ones alike: what the launcher passes parses, and arrives."""
    options = TestbedOptions(
        owners=9, faulty=0, features=16, batch_size=2 if thin else 60, poison_owners=PoisonOrder("noise", 2), chaos=0.5
    )
    data: tuple[list[Dataset], Dataset] = load_data(options)
    cast = write_participants(options, tmp_path, data)
    assert len(cast.owners) == 9
    for owner in cast.owners:
        for command in (owner.command, owner.honest_command):
            program = hostile_owner if "tests.adversaries.owner" in command else honest_owner
            first = next(index for index, word in enumerate(command) if word.startswith("--") and "=" in word)
            params = program.make_context("run", [*command[first:], f"--home={owner.home}"]).params
            assert params["allow_thin_sums"] is thin and params["restore_stake"] is True
            assert Path(params["data"]) == owner.home / "data.npz"
    hostile = [owner for owner in cast.owners if "--poison=noise" in owner.command]
    assert len(hostile) == 2 and all("--poison=noise" not in owner.honest_command for owner in hostile)


def test_every_row_goes_to_one_owner_or_is_held_out() -> None:
    parts, own = load_data(OPTIONS)
    assert len(parts) == 18
    assert sum(part.row_count for part in parts) + own.row_count == 1797
    assert abs(own.row_count / 1797 - 0.2) < 0.01
    again, _ = load_data(OPTIONS)
    assert all(np.array_equal(a.features, b.features) for a, b in zip(parts, again, strict=True))
    other, _ = load_data(replace(OPTIONS, seed=1))
    assert not all(a.row_count == b.row_count for a, b in zip(parts, other, strict=True))


def test_owners_draw_their_batches_apart() -> None:
    seeds = [owner_seed(replace(OPTIONS, seed=seed), index) for seed in range(12) for index in range(12)]
    assert len(set(seeds)) == len(seeds)


def test_the_commands_options_are_the_programs() -> None:
    """What the launcher passes parses, and arrives."""
    from omnilytics.daemon.commands.model import run

    options = replace(OPTIONS, strict=True, batch_size=7, optimiser="sgd:0.1", faulty=0, lane_bits=32, features=24)
    market: dict[str, object] = {"rpc_url": "u", "chain_id": 5, "market": "m", "broker_url": "b"}
    arguments = model_arguments(options, Path("t.npz")) + network_arguments(options, Path("h"), market)
    params = run.make_context("run", arguments).params
    assert (params["rounds"], params["groups"], params["group_size"], params["faulty"]) == (5, 6, 3, 0)
    assert (params["strict"], params["batch_size"], params["optimiser"], params["lane_bits"]) == (
        True,
        7,
        "sgd:0.1",
        "32",
    )
    assert (params["protection"], params["features"], params["architecture"]) == ("secret-head", 24, "softmax")
    assert (params["chain"], params["chain_id"], params["market"], params["broker"]) == ("u", 5, "m", "b")


# ------------------------------------------------------------------------- the logs


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def test_a_log_is_read_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    reader = LogReader("owner-00", path)
    assert list(reader.new_records()) == []
    append(path, b'{"event": "a"}\n{"event": "b"}\n{"eve')
    assert [record["event"] for record in reader.new_records()] == ["a", "b"]
    assert list(reader.new_records()) == []
    append(path, b'nt": "c"}')
    assert list(reader.new_records()) == [], "a line is whole when it ends"
    append(path, b"\n")
    assert [record["event"] for record in reader.new_records()] == ["c"]
    assert reader.bad_lines == 0


@pytest.mark.parametrize(
    "bad", [b"not json", b"{", b"\xff\xfe", b"7", b"[]", b'"text"', b"null", b"", b'{"no": "event"}']
)
def test_a_bad_line_is_counted_and_skipped(tmp_path: Path, bad: bytes) -> None:
    path = tmp_path / "log.jsonl"
    append(path, b'{"event": "a"}\n' + bad + b'\n{"event": "b"}\n')
    reader = LogReader("owner-00", path)
    assert [record["event"] for record in reader.new_records()] == ["a", "b"]
    assert reader.bad_lines == 1


def test_a_character_cut_in_two_is_put_together(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    line = '{"event": "ü\u2028"}\n'.encode()
    reader = LogReader("owner-00", path)
    got: list[Any] = []
    for place in range(len(line)):
        append(path, line[place : place + 1])
        got += reader.new_records()
    assert [record["event"] for record in got] == ["ü\u2028"]


def test_people_see_a_line_a_round_and_who_failed() -> None:
    out = io.StringIO()
    progress = Progress(out, 5, {"0xabc": "owner-07"})
    done: dict[str, Any] = {"accuracy": 0.91234, "selected_groups": [0, 2]}
    progress.see("model", {"event": "round.done", "round": 2, "dur_ms": 4100, "data": done})
    progress.see(
        "model", {"event": "waiting", "round": 2, "phase": "commit", "msg": "x", "data": {"waiting_for": ["0xabc"]}}
    )
    assert "owner-07" in progress._status
    progress.see("owner-07", {"event": "round.sat-out", "round": 2, "msg": "waited in vain"})
    progress.see("owner-07", {"event": "heartbeat", "msg": "alive"})
    progress.see("owner-07", {"event": "daemon.failed", "msg": "no rows"})
    assert out.getvalue().splitlines() == [
        "round   2/5  accuracy 0.9123  selected [0, 2]  4.1 s",
        "owner-07 in round 2: waited in vain",
        "owner-07: no rows",
    ]


# ------------------------------------------------------------------------- the story


def mined(function: str, gas: int, round_number: int | None, event: str = "tx.mined") -> dict[str, Any]:
    record: dict[str, Any] = {"event": event, "gas": gas, "data": {"function": function, "calldata_bytes": gas // 10}}
    return record if round_number is None else record | {"round": round_number}


def test_gas_is_added_up_by_round_and_function_reverted_or_not() -> None:
    story = Story(
        [
            ("model", mined("createTask", 900, None)),
            ("owner-00", mined("join", 100, 0)),
            ("owner-01", mined("join", 110, 0)),
            ("owner-00", mined("commit", 10, 1)),
            ("owner-01", mined("commit", 12, 1, "tx.reverted")),
            ("model", mined("openRound", 50, 1)),
            ("owner-00", {"event": "tx.sent", "round": 1, "data": {"function": "commit"}}),
        ]
    )
    assert story.gas_by_round() == {0: {"createTask": 900, "join": 210}, 1: {"commit": 22, "openRound": 50}}
    assert len(story.transactions()) == 6


def test_who_was_absent_is_told_by_the_model_owner_alone() -> None:
    closed = {"event": "delivery.closed", "round": 2, "data": {"silent": ["0xa"]}}
    slashed = {"event": "round.done", "round": 2, "data": {"slashed": ["0xb"]}}
    story = Story([("model", closed), ("model", slashed), ("owner-00", closed | {"data": {"silent": ["0xc"]}})])
    assert story.absent(2) == ["0xa", "0xb"]
    assert story.absent(1) == []


# ---------------------------------------------------------------------- the tables


def summary(**changes: Any) -> dict[str, Any]:
    rounds = [
        {
            "round": 1, "accuracy": 0.5, "selected_groups": [0, 2], "void_groups": [1], "absent_owners": ["0xa"],
            "gas": {"commit": 1234567, "post": 5}, "seconds": 4.14,
        },
        {
            "round": 2, "accuracy": None, "selected_groups": [], "void_groups": [], "absent_owners": [],
            "gas": {"settle": 7}, "seconds": None,
        },
    ]  # fmt: skip
    owners = [
        {"name": "owner-00", "address": "0xa", "group": 1, "poisoned": True, "paid_wei": 0},
        {"name": "owner-01", "address": "0xb", "group": None, "poisoned": False, "paid_wei": 3 * 10**15},
    ]
    values: dict[str, Any] = {
        "rounds": rounds, "owners": owners, "escrow_wei": 100, "paid_wei": 50, "settlement_wei": 20,
        "refunded_wei": 30, "locked_wei": 0, "stakes_in_wei": 90, "stakes_out_wei": 80, "slashed_wei": 10,
        "compensation_wei": 6, "burned_wei": 4, "accuracy_final": 0.95, "accuracy_plain": 0.951,
        "sums_verified": True, "max_gas": 1234567, "wall_seconds": 12.3,
    }  # fmt: skip
    return values | changes


def test_money_that_adds_up_is_shown_to_the_wei() -> None:
    assert money_lines(summary()) == [
        "escrow 100 wei = paid 50 + settlement 20 + refunded 30 + locked 0",
        "stakes in 90 wei = stakes out 80 + slashed 10",
        "slashed 10 wei = compensation 6 + burned 4",
    ]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("escrow_wei", 0), ("paid_wei", 0), ("settlement_wei", 0), ("refunded_wei", 0), ("locked_wei", 0),
        ("stakes_out_wei", 1), ("compensation_wei", 2), ("burned_wei", 2),
    ],
)  # fmt: skip
def test_one_wei_too_many_is_said_loudly(name: str, line: int) -> None:
    lines = money_lines(summary(**{name: summary()[name] + 1}))
    assert ["DOES NOT ADD UP" in told for told in lines] == [number == line for number in range(3)]


def test_stakes_that_are_still_held_are_shown() -> None:
    assert money_lines(summary(stakes_in_wei=95))[1] == "stakes in 95 wei = stakes out 80 + slashed 10 + held 5"


def test_large_amounts_lose_no_wei() -> None:
    wei = 123_456_789_012_345_678_901
    lines = money_lines(summary(escrow_wei=wei + 50, paid_wei=wei))
    assert str(wei) in lines[0]
    assert "DOES NOT ADD UP" not in lines[0]


def test_the_rounds_table_has_a_column_for_every_function() -> None:
    head, rule, first, second = round_table(summary())
    assert head.split()[:5] == ["round", "accuracy", "selected", "void", "away"]
    for function in ("commit gas", "post gas", "settle gas"):
        assert function in head
    assert set(rule) == {"-"}
    assert first.split() == ["1", "0.5000", "0,2", "1", "1", "1,234,567", "5", "0", "4.1"]
    assert second.split() == ["2", "-", "-", "-", "-", "0", "0", "7", "-"]
    assert len({len(line) for line in (head, rule, first, second)}) == 1


def test_the_owners_table_shows_who_was_poisoned_and_paid() -> None:
    told = owner_table(summary())
    assert told[2].split() == ["owner-00", "0xa", "1", "poisoned", "0.000000", "ETH"]
    assert told[3].split() == ["owner-01", "0xb", "-", "0.003000", "ETH"]


@pytest.mark.parametrize(
    ("changes", "judge"),
    [
        ({}, lambda text: "accuracy 0.9500, plain training 0.9510; every group's sum verified" in text),
        ({"sums_verified": False}, lambda text: "verified" not in text),
        ({"accuracy_final": None}, lambda text: "no round was decrypted" in text),
        ({"rounds": [], "owners": []}, lambda text: "escrow 100 wei" in text),
    ],
)
def test_the_report_ends_with_what_came_out(changes: dict[str, Any], judge: Callable[[str], bool]) -> None:
    assert judge("\n".join(report(summary(**changes))))


def test_a_summary_can_be_written_and_plotted(tmp_path: Path) -> None:
    from scripts.launcher.plot import plot_summary

    told = summary(owner_count=2, group_count=1, group_size=3, values=650, protection="envelope")
    assert json.loads(json.dumps(told)) == told
    plot_summary(told, tmp_path / "summary.png")
    assert (tmp_path / "summary.png").read_bytes()[:4] == b"\x89PNG"


# --------------------------------------------------------------------------- chaos


@pytest.mark.parametrize("rounds", [1, 2, 5])
async def test_trouble_comes_once_in_a_round_that_is_played(rounds: int) -> None:
    """Also in the default market, which has one round."""
    cuts: list[float] = []

    class Proxy(CutableProxy):
        async def cut(self, seconds: float) -> None:
            cuts.append(seconds)

    async def restart(person: Participant) -> ManagedProcess:
        raise AssertionError("nobody is killed")

    options = replace(OPTIONS, rounds=rounds, drop_broker=0.5)
    chaos = Chaos(options, {}, {}, restart, Proxy("nowhere", 1), "", lambda _: None)
    for number in range(1, rounds + 1):
        for phase in ("commit", "post", "settle", "idle"):
            for _ in range(2):
                chaos.see("model", {"event": "phase.enter", "round": number, "phase": phase})
                chaos.see("owner-00", {"event": "phase.enter", "round": number, "phase": phase})
        await asyncio.gather(*chaos._tasks)
    assert cuts == [0.5]
    assert [mishap.round for mishap in chaos.mishaps] == [min(2, rounds)]


def _line(ts: str, event: str, **fields: Any) -> Record:
    return {"ts": f"2026-01-01T00:00:{ts}+00:00", "event": event, **fields}


def _mishap(ts: str, round_number: int = 1) -> Mishap:
    return Mishap("killed", "owner-00", round_number, "commit", 0.0, f"2026-01-01T00:00:{ts}+00:00", 1.0)


def _judged(mishaps: list[Mishap], own: list[Record], void: list[int] | None = None) -> list[bool | None]:
    model = [
        ("model", _line("10.000", "phase.enter", round=2, phase="commit")),
        ("model", _line("15.000", "round.done", round=2, data={"void_groups": void or []})),
    ]
    told = outcomes(mishaps, [*model, *(("owner-00", record) for record in own)], 2)
    return [item["back_in_next_round"] for item in told]


def test_who_plays_in_the_next_round_is_back() -> None:
    own = [_line("05.000", "daemon.ready"), _line("11.000", "round.begin", round=2, group=0)]
    assert _judged([_mishap("02.000")], own) == [True]


def test_who_does_nothing_in_the_next_round_is_not_back() -> None:
    own = [_line("05.000", "daemon.ready")]
    assert _judged([_mishap("02.000")], own) == [False]
    own.append(_line("11.000", "phase.enter", round=2, group=0))
    assert _judged([_mishap("02.000")], own) == [False]
    assert _judged([_mishap("02.000")], own, void=[0]) == [True], "a mate had its group sit out"


def test_who_is_away_when_the_round_opens_or_killed_again_is_not_judged() -> None:
    assert _judged([_mishap("02.000")], []) == [None]
    late = [_line("10.500", "daemon.ready"), _line("11.000", "phase.enter", round=2, group=0)]
    assert _judged([_mishap("02.000")], late) == [None]
    own = [_line("05.000", "daemon.ready")]
    assert _judged([_mishap("02.000"), _mishap("10.100")], own) == [None, None]
