"""The operator's commands as people and scripts run them."""

import asyncio
import json
import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest import mock

import click
import pytest
from click.shell_completion import ShellComplete

from omnilytics.daemon.cli import cli
from omnilytics.daemon.config import load_settings
from omnilytics.daemon.control.json_rpc import Method, Whole
from omnilytics.daemon.control.server import ControlServer
from omnilytics.daemon.home_lock import lock_home
from omnilytics.daemon.keystore import load_keys, read_password
from omnilytics.peers.errors import ParameterError
from scripts import chain_process
from scripts.broker_process import Broker
from scripts.chain_process import rpc_call
from tests.local_market import PARAMS
from tests.part_stubs import LogStub
from tests.test_cli import MARKET, NOWHERE, PROGRAM, envelope, refused, run_beside, run_here, small_market

ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "my rows.csv"
    path.write_text("a,b,outcome\n1,2,yes\n3,4,no\n5,6,no\n")
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "alice"
    assert run_here("init", "--home", home, "--light")[0] == 0
    return home


def said(*arguments: object) -> Any:
    """The data of a command that must succeed, with --json."""
    code, out, err = run_here(*arguments, "--json")
    assert code == 0, err
    told = json.loads(out)
    assert (told["version"], set(told)) == (1, {"version", "command", "data"})
    return told["data"]


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ----------------------------------------------------------------------------- init


def test_init_asks_for_nothing_and_leaves_a_daemon_that_only_lacks_a_market(tmp_path: Path) -> None:
    home = tmp_path / "alice"
    code, out, err = run_here("init", "--home", home, "--light")
    assert code == 0
    assert ADDRESS.fullmatch(out.strip())
    assert f"write its address into {home / 'config.toml'}" in err
    assert f"omnilytics data add FILE --home {home}" in err
    assert err.rstrip().endswith(f"omnilytics doctor --home {home}")
    assert stat.S_IMODE((home / "config.toml").stat().st_mode) == 0o600
    assert run_here("config", "validate", "--home", home, "--market", MARKET)[0] == 0


def test_what_init_is_given_stands_in_the_file(tmp_path: Path, table: Path) -> None:
    home = tmp_path / "alice"
    where = "--chain", "https://rpc.example/v3/k", "--chain-id", 5, "--market", MARKET, "--broker", "mqtts://b"
    found = said("init", "--home", home, "--light", *where, "--data", table, "--label", "outcome")
    assert (found["data"]["rows"], found["data"]["columns"], found["data"]["name"]) == (3, 2, "my-rows")
    settings = load_settings(home, {}, {})
    assert (settings.chain, settings.chain_id, settings.market) == ("https://rpc.example/v3/k", 5, MARKET)
    assert settings.broker == "mqtts://b"
    assert settings.table("data") == {"my-rows": {"file": str(table), "label": "outcome"}}
    keys = load_keys(home / "keys", read_password(home / "password"))
    assert keys.account.address == found["address"]


@pytest.mark.parametrize(
    ("code", "arguments", "says"),
    [
        (2, ["--market", "0x12"], "'0x12' is not 0x and 40 hex digits"),
        (2, ["--chain", "nonsense"], "chain URL"),
        (2, ["--broker", "http://b"], "broker URL"),
        (2, ["--chain-id", "-1"], "negative"),
        (9, ["--data", "none.npz"], "none.npz: cannot read"),
        (9, ["--data", "TABLE"], "which column of the table is the label"),
    ],
)
def test_a_mistake_is_told_before_anything_is_made(
    tmp_path: Path, table: Path, code: int, arguments: list[str], says: str
) -> None:
    given = [str(table) if argument == "TABLE" else argument for argument in arguments]
    refused(code, "init", "--home", tmp_path / "alice", "--light", *given, says=says)
    assert not (tmp_path / "alice").exists()


def test_init_a_second_time_is_refused_and_changes_nothing(home: Path) -> None:
    before = snapshot(home)
    refused(6, "init", "--home", home, "--light", says="has keys already", cure="another --home")
    refused(6, "init", "--home", home, "--light", "--market", MARKET, says="has keys already")
    assert snapshot(home) == before


def test_init_keeps_a_configuration_and_a_password_that_are_there(tmp_path: Path) -> None:
    home = tmp_path / "alice"
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text(f'market = "{MARKET}"\n')
    (home / "password").write_text("my own\n")
    (home / "password").chmod(0o600)
    before = snapshot(home)
    refused(2, "init", "--home", home, "--light", "--chain-id", 5, says="is there already", cure="edit it")
    assert snapshot(home) == before
    assert run_here("init", "--home", home, "--light")[0] == 0
    assert before.items() <= snapshot(home).items()
    load_keys(home / "keys", "my own")


# --------------------------------------------------------------------------- config


def test_config_show_tells_where_values_come_from_and_hides_secrets(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "config.toml").write_text(
        'broker = "mqtt://me:hunter2@b"\ngas_tip = 5\n[privacy]\nclip_norm = 1.0\n', encoding="utf-8"
    )
    monkeypatch.setenv("OMNILYTICS_CHAIN", "https://rpc.example/v3/0123456789abcdef")
    asked = "config", "show", "--home", home, "--finality-depth", 2
    code, out, _ = run_here(*asked)
    assert code == 0
    lines = {line.split()[0]: line.split() for line in out.splitlines()}
    assert lines["broker"] == ["broker", "mqtt://me:[redacted]@b", "config.toml"]
    assert lines["chain"] == ["chain", "https://rpc.example/[redacted]", "OMNILYTICS_CHAIN"]
    assert lines["finality_depth"] == ["finality_depth", "2", "flag"]
    assert lines["gas_price_cap"][2] == "default"
    found = said(*asked)
    assert found["settings"]["gas_tip"] == {"value": 5, "source": "config.toml"}
    assert found["tables"] == {"privacy": {"clip_norm": 1.0}}
    assert "hunter2" not in out + json.dumps(found) and "0123456789abcdef" not in out + json.dumps(found)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is not 0x and 40 hex digits"),
        ("chian = 'x'", "did you mean 'chain'"),
        (f"market = '{MARKET}'\nbroker = 'x'", "broker URL"),
        (f"market = '{MARKET}'\nchain = 'x'", "chain URL"),
        (f"market = '{MARKET}'\n[policy]\nminimum_rewards = 1", "did you mean 'minimum_reward'"),
        (f"market = '{MARKET}'\n[privacy]\nclip = 1", "unknown key 'clip'"),
        (f"market = '{MARKET}'\n[data.x]\nlabel = 'y'", "names no file"),
    ],
)
def test_config_validate_names_the_first_mistake(home: Path, text: str, says: str) -> None:
    (home / "config.toml").write_text(text)
    refused(2, "config", "validate", "--home", home, says=says)


def test_config_validate_says_that_all_is_fine(home: Path) -> None:
    (home / "config.toml").write_text(f"market = '{MARKET}'\n")
    assert run_here("config", "validate", "--home", home)[:2] == (0, f"{home / 'config.toml'} is fine\n")
    assert said("config", "validate", "--home", home)["valid"] is True


def test_a_misspelt_variable_is_refused_by_every_command(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNILYTICS_MARKT", MARKET)
    refused(2, "config", "show", "--home", home, says="did you mean OMNILYTICS_MARKET", cure="unset OMNILYTICS_MARKT")


def test_a_password_file_may_come_from_the_environment(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "password").rename(tmp_path / "elsewhere")
    refused(6, "keys", "--home", home, says="no password file")
    monkeypatch.setenv("OMNILYTICS_PASSWORD_FILE", str(tmp_path / "elsewhere"))
    assert ADDRESS.fullmatch(said("keys", "--home", home)["address"])


# ----------------------------------------------------------------------- keys, data


def test_keys_are_told_without_anything_secret(home: Path) -> None:
    found = said("keys", "--home", home)
    keys = load_keys(home / "keys", read_password(home / "password"))
    assert found["address"] == keys.account.address
    assert found["box_public_key"] == "0x" + keys.box.public.hex()
    assert [entry["mode"] for entry in found["files"]] == ["0600", "0600", "0400"]
    code, out, err = run_here("keys", "--home", home)
    assert code == 0
    for secret in keys.secrets():
        assert secret.hex() not in out + err + json.dumps(found)


def test_the_address_needs_no_password(home: Path, tmp_path: Path) -> None:
    whole = said("keys", "--home", home)["address"]
    (home / "password").unlink()
    assert run_here("keys", "--home", home, "--address") == (0, whole + "\n", "")
    refused(6, "keys", "--home", home, says="no password file")
    refused(6, "keys", "--home", tmp_path / "nobody", "--address", says="no key file", cure="omnilytics init")
    (home / "keys" / "account.json").write_text("[]")
    refused(6, "keys", "--home", home, "--address", says="is not a key file", cure="backup")


def test_data_is_registered_after_it_was_read_and_comments_stay(home: Path, table: Path) -> None:
    before = (home / "config.toml").read_text()
    refused(9, "data", "add", table, "--home", home, says="which column of the table is the label", cure="data")
    assert (home / "config.toml").read_text() == before
    code, out, _ = run_here("data", "add", table, "--label", "outcome", "--home", home)
    assert (code, out) == (0, f"my-rows: 3 rows, 2 columns, 2 classes (no, yes), {table}, label outcome\n")
    after = (home / "config.toml").read_text()
    assert after.startswith(before)
    assert stat.S_IMODE((home / "config.toml").stat().st_mode) == 0o600
    found = said("data", "list", "--home", home)["data"]
    assert [(one["name"], one["rows"], one["classes"], one["problem"]) for one in found] == [
        ("my-rows", 3, {"no": 2, "yes": 1}, None)
    ]
    # Once more is no mistake, and no second entry; another file of that name is.
    assert "registered already" in run_here("data", "add", table, "--label", "outcome", "--home", home)[1]
    assert (home / "config.toml").read_text() == after
    refused(2, "data", "add", table, "--label", "a", "--home", home, says="'my-rows' is registered", cure="--name")


def test_a_registered_file_that_has_gone_is_listed_with_its_problem(home: Path, table: Path) -> None:
    run_here("data", "add", table, "--label", "outcome", "--home", home)
    table.unlink()
    code, out, err = run_here("data", "list", "--home", home)
    assert (code, "cannot read" in out, "cannot read" in err) == (9, True, True)


def test_data_is_not_added_to_a_file_that_would_break(home: Path, table: Path) -> None:
    (home / "config.toml").write_text('data = { x = { file = "x.npz" } }\n')
    before = snapshot(home)
    refused(2, "data", "add", table, "--label", "outcome", "--home", home, says="would not be readable", cure="by hand")
    assert snapshot(home) == before


def test_without_data_the_way_is_told(home: Path) -> None:
    assert run_here("data", "list", "--home", home)[:2] == (0, "")
    refused(
        2, "owner", "run", "--home", home, "--market", MARKET, says="no data is registered", cure="omnilytics data add"
    )


def test_owner_run_takes_the_registered_data(home: Path, table: Path) -> None:
    (home / "config.toml").write_text("")
    run_here("data", "add", table, "--label", "outcome", "--home", home)
    with mock.patch("omnilytics.daemon.run.run_owner") as ran:
        assert run_here("owner", "run", "--home", home, "--market", MARKET)[0] == 0
        assert run_here("owner", "run", "--home", home, "--market", MARKET, "--data", "my-rows")[0] == 0
        assert run_here("owner", "run", "--home", home, "--market", MARKET, "--data", "else.npz")[0] == 0
    meant = [(call.args[2].data, call.args[2].label) for call in ran.call_args_list]
    assert meant == [(table, "outcome"), (table, "outcome"), (Path("else.npz"), None)]


# ------------------------------------------------------------ paths, version, doctor


def test_paths_say_what_is_there(home: Path) -> None:
    found = said("paths", "--home", home)
    assert found["keys"] == {"path": str(home / "keys"), "exists": True}
    assert found["journal"]["exists"] is False
    assert "(not there)" in run_here("paths", "--home", home)[1]


def test_versions_name_the_libraries() -> None:
    found = said("version")
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", found["omnilytics"])
    assert found["web3"] != "not installed"


def test_doctor_ends_with_1_where_something_fails_and_shows_all(home: Path) -> None:
    asked = "doctor", "--home", home, "--chain", NOWHERE, "--market", MARKET, "--broker", "mqtt://127.0.0.1:1"
    code, out, err = run_here(*asked)
    assert (code, err) == (1, "")
    lines = out.splitlines()
    assert re.match(r"PASSED +keys +account 0x", next(line for line in lines if "keys" in line))
    at = next(number for number, line in enumerate(lines) if line.startswith("FAILED   rpc"))
    assert "check the RPC address" in lines[at + 1]
    code, out, _ = run_here(*asked, "--json")
    told = json.loads(out)
    assert (code, told["command"], told["data"]["healthy"]) == (1, "doctor", False)


async def test_doctor_ends_with_0_where_all_is_well(anvil: chain_process.Chain, broker: Broker, home: Path) -> None:
    async with small_market(anvil) as (_, url, address):
        own = (await run_beside("keys", "--home", home, "--address"))[1].strip()
        await asyncio.to_thread(rpc_call, url, "anvil_setBalance", own, hex(10**20))
        asked = "doctor", "--home", home, "--chain", url, "--market", address, "--broker", broker.url
        code, out, _ = await run_beside(*asked)
        assert (code, "FAILED" in out) == (0, False), out


# ----------------------------------------------------------------------------- logs


def line(event: str, level: str = "info") -> str:
    return json.dumps({"ts": "2026-01-01T10:20:30.000+00:00", "event": event, "level": level, "msg": "m"}) + "\n"


def test_logs_are_readable_and_as_stored(home: Path) -> None:
    refused(2, "logs", "--home", home, says="no log", cure="--home")
    text = "".join((line("a", "debug"), line("b"), line("c", "warning")))
    (home / "log.jsonl").write_text(text)
    assert run_here("logs", "--home", home)[:2] == (
        0,
        "10:20:30 info    b                  m\n10:20:30 warning c                  m\n",
    )
    assert run_here("logs", "--home", home, "-n", 1, "--json")[1] == line("c", "warning")
    assert run_here("logs", "--home", home, "--level", "debug", "--json")[1] == text
    assert run_here("logs", "--home", home, "--level", "error")[1] == ""


def test_logs_are_followed_over_a_rotation_until_a_signal(home: Path) -> None:
    log = home / "log.jsonl"
    log.write_text(line("first"))
    process = subprocess.Popen(
        [*PROGRAM, "logs", "-f", "--json", "--home", str(home)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    guard = threading.Timer(60, process.kill)
    guard.start()
    with process:
        assert b'"first"' in process.stdout.readline()
        log.rename(home / "log.jsonl.1")
        log.write_text(line("hidden", "debug") + line("second"))
        assert b'"second"' in process.stdout.readline()
        process.terminate()
        _, err = process.communicate()
        guard.cancel()
    assert (process.returncode, err) == (0, b"")


def test_a_reader_that_leaves_is_no_traceback(home: Path) -> None:
    (home / "log.jsonl").write_text(line("a") * 20_000)
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*PROGRAM, "logs", "-n", "20000", "--home", str(home)], stdout=writer, stderr=subprocess.PIPE, timeout=60
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


# ------------------------------------------------------------------------ completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_command_and_its_variable(shell: str) -> None:
    code, out, _ = run_here("completion", shell)
    assert code == 0
    assert "_OMNILYTICS_COMPLETE" in out and "omnilytics" in out


def test_bash_completes_commands_and_options() -> None:
    script = run_here("completion", "bash")[1]
    assert subprocess.run(["bash", "-n"], input=script.encode()).returncode == 0
    environment = os.environ | {
        "_OMNILYTICS_COMPLETE": "bash_complete",
        "COMP_WORDS": "omnilytics doc",
        "COMP_CWORD": "1",
    }
    program = Path(sys.executable).parent / "omnilytics"
    done = subprocess.run([program], env=environment, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, b"plain,doctor\n")


def test_options_are_completed() -> None:
    completed = ShellComplete(cli, {}, "omnilytics", "_OMNILYTICS_COMPLETE").get_completions(["init"], "--ma")
    assert [item.value for item in completed] == ["--market"]


# --------------------------------------------------------------- tasks, earnings, withdraw


async def test_a_task_is_shown_to_its_last_owner(anvil: chain_process.Chain, home: Path) -> None:
    async with small_market(anvil) as (market, url, address):
        await market.create()
        await market.join(market.owners[0])
        where = "--home", home, "--chain", url, "--market", address
        code, out, _ = await run_beside("tasks", "show", 1, *where)
        assert code == 0
        assert f"0x{market.owners[0].address.hex()} joined    no group, stake {PARAMS.stake} wei" in out
        code, out, _ = await run_beside("tasks", "show", 1, *where, "--json")
        found = json.loads(out)["data"]
        assert found["model_owner"] == "0x" + market.model.address.hex()
        assert (found["params"]["rounds"], found["money"]["stakes_in_wei"]) == (2, PARAMS.stake)
        assert (await run_beside("tasks", "show", 9, *where))[0] == 4


async def test_earnings_and_withdraw_from_the_chain(anvil: chain_process.Chain, home: Path) -> None:
    async with small_market(anvil) as (market, url, address):
        keys = load_keys(home / "keys", read_password(home / "password"))
        await asyncio.to_thread(rpc_call, url, "anvil_setBalance", keys.account.address, hex(10**20))
        where = "--home", home, "--chain", url, "--market", address
        code, out, err = await run_beside("earnings", *where)
        assert (code, out) == (0, "paid 0 wei, withdrawn 0, can be withdrawn 0\n")
        assert "no task" in err
        code, out, _ = await run_beside("withdraw", *where)
        assert (code, out) == (0, "there is nothing to withdraw\n")
        await market.create()
        await market.join(keys)
        await anvil.advance(PARAMS.join_seconds + 1)
        await market.act(market.model, "poke", 1)
        code, out, _ = await run_beside("earnings", *where, "--json")
        found = json.loads(out)["data"]
        assert (code, found["withdrawable_wei"], found["tasks"][0]["status"]) == (0, PARAMS.stake, "cancelled")
        with lock_home(home):
            code, out, err = await run_beside("withdraw", *where)
        assert (code, out) == (8, "")
        assert f"in use by pid {os.getpid()}" in err and "withdraws by itself" in err
        code, out, err = await run_beside("withdraw", *where, "--to", "0x" + "09" * 20, "--json")
        assert code == 0, err
        told = json.loads(out)
        assert told == envelope("withdraw", told["data"])
        assert (told["data"]["amount_wei"], told["data"]["to"]) == (PARAMS.stake, "0x" + "09" * 20)
        code, out, _ = await run_beside("earnings", *where, "--account", "0x" + market.model.address.hex())
        assert re.search(r"task 1, cancelled: this account's own\ncredits .*: \d+ wei", out)


def test_earnings_without_a_chain(home: Path) -> None:
    assert said("earnings", "--offline", "--home", home) == {"source": "journal", "tasks": []}


@pytest.mark.parametrize("command", [["withdraw", "--to", "alice"], ["earnings", "--account", "alice"]])
def test_what_is_no_address_is_code_two(home: Path, command: list[str]) -> None:
    refused(2, *command, "--home", home, "--market", MARKET, says=f"{command[1]} 'alice' is not an address")


def _commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


def test_every_command_that_ends_has_json() -> None:
    """Those without run until a signal comes, or print a shell's program."""
    without = {
        name for name, command in _commands(cli) if not any("--json" in parameter.opts for parameter in command.params)
    }
    assert without == {"owner run", "model run", "ui", "completion"}


async def test_the_running_daemon_keeps_the_owners_word_on_a_task(home: Path) -> None:
    words: list[tuple[int, bool]] = []

    async def decide(task: int, accepted: bool) -> dict[str, Any]:
        if task == 9:
            raise ParameterError("task 9 takes no more owners", help="decide of one that is open")
        words.append((task, accepted))
        return {"task": task, "decision": "accepted" if accepted else "refused"}

    task = {"task": Whole(1, 2**63 - 1)}
    methods = {
        "accept": Method(partial(decide, accepted=True), task, ("task",)),
        "refuse": Method(partial(decide, accepted=False), task, ("task",)),
    }
    async with ControlServer(methods, cast(Any, LogStub())).serve(home):
        assert await run_beside("tasks", "accept", 7, "--home", home) == (0, "task 7: accepted\n", "")
        code, out, _ = await run_beside("tasks", "refuse", 7, "--home", home, "--json")
        assert (code, json.loads(out)["command"]) == (0, "tasks refuse")
        assert json.loads(out)["data"] == {"task": 7, "decision": "refused"}
        code, _, err = await run_beside("tasks", "accept", 9, "--home", home)
        assert code != 0 and "takes no more owners" in err and "decide of one that is open" in err
    assert words == [(7, True), (7, False)]
    code, _, err = await run_beside("tasks", "accept", 7, "--home", home)
    assert code == 3 and "no daemon is running" in err


def test_groups_know_their_commands() -> None:
    """`omnilytics tasks` alone lists, as it did before it had commands."""
    group = cli.commands["tasks"]
    assert isinstance(group, click.Group)
    assert {"list", "show", "accept", "refuse"} <= set(group.commands)
    refused(2, "tasks", "--chain", NOWHERE, says="is not 0x and 40 hex digits")
