"""The command line: documented to the last option, and every mistake a line, a cure and a code, never a traceback."""

import asyncio
import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import click
import numpy as np
import pytest
from click.testing import CliRunner

from omnilytics.daemon.cli import cli, main
from omnilytics.daemon.commands.tasks import _printable
from omnilytics.daemon.home_lock import lock_home
from omnilytics.daemon.journal import Journal
from omnilytics.daemon.keystore import create_keys
from omnilytics.daemon.ledger import Exposure, Mechanism
from omnilytics.daemon.spec import TaskSpec
from scripts import chain_process
from tests.local_market import PARAMS, LocalMarket, open_market

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = [sys.executable, "-P", "-m", "omnilytics.daemon.cli"]
MARKET = "0x" + "11" * 20
NOWHERE = "http://127.0.0.1:1"


def commands(group: click.Command = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """All commands that do something, with their paths."""
    if isinstance(group, click.Group):
        for name, command in sorted(group.commands.items()):
            yield from commands(command, (*path, name))
    else:
        yield path, group


COMMANDS = list(commands())


def run_here(*arguments: object) -> tuple[int, str, str]:
    """The same in this process: it starts at once, but there must be no loop running."""
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with (
        mock.patch.object(sys, "argv", ["omnilytics", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as leaving:
            code = leaving.code
    assert isinstance(code, int)
    return code, out.getvalue(), err.getvalue()


def envelope(command: str, data: dict[str, Any]) -> dict[str, Any]:
    """What --json prints."""
    return {"version": 1, "command": command, "data": data}


def refused(code: int, *arguments: object, says: str, cure: str = "") -> None:
    """Runs a command that must be refused: with this code, in these words, without a traceback."""
    _judge(code, run_here(*arguments), says, cure)


def _judge(code: int, told: tuple[int, str, str], says: str, cure: str) -> None:
    got, out, err = told
    assert "Traceback" not in err, err
    assert (got, out) == (code, ""), err
    assert re.search(says, err), err
    assert re.search(cure, err), err


async def run_beside(*arguments: object) -> tuple[int, str, str]:
    """In this process, but in a thread with a loop of its own; signals are for main threads only."""
    with mock.patch.object(asyncio.SelectorEventLoop, "add_signal_handler", lambda *_: None):
        return await asyncio.wait_for(asyncio.to_thread(run_here, *arguments), 60)


async def refused_there(code: int, *arguments: object, says: str, cure: str = "") -> None:
    """Runs a command that must be refused: with this code, in these words, without a traceback."""
    _judge(code, await run_beside(*arguments), says, cure)


# -------------------------------------------------------------------- documentation


def _name_of(value: object) -> str:
    return " ".join(value) if isinstance(value, tuple) else ""


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=_name_of)
def test_every_command_is_documented_with_an_example(path: tuple[str, ...], command: click.Command) -> None:
    told = CliRunner().invoke(cli, [*path, "--help"])
    assert told.exit_code == 0
    assert command.help
    assert command.help.splitlines()[0].endswith(".")
    assert f"Example: omnilytics {' '.join(path)}" in told.output
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            continue
        assert isinstance(parameter, click.Option)
        assert parameter.opts[0] in told.output
        # What a name and a default do not say by themselves is said.
        assert parameter.help or parameter.show_default or isinstance(parameter.type, click.Choice), parameter.name


# A daemon prints nothing, a shell's script is a script, and the others do something and say in words how it went.
WITHOUT_JSON = {("completion",), ("model", "run"), ("owner", "run"), ("ui",)}


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=_name_of)
def test_every_command_that_prints_data_prints_it_for_programs_too(
    path: tuple[str, ...], command: click.Command
) -> None:
    has_it = any("--json" in parameter.opts for parameter in command.params)
    assert has_it is (path not in WITHOUT_JSON), "add --json, or name it in WITHOUT_JSON with a reason"


def test_every_group_is_documented_and_exit_codes_are_told() -> None:
    told = CliRunner().invoke(cli, ["--help"]).output
    for name in cli.commands:
        assert name in told
    for code in range(10):
        assert re.search(rf"\b{code} [a-z]", told), f"exit code {code} is not told"
    for name in ("config", "data", "model", "owner", "policy", "tasks"):
        assert CliRunner().invoke(cli, [name, "--help"]).exit_code == 0


def test_examples_use_only_options_that_exist() -> None:
    for path, command in COMMANDS:
        known = {name for parameter in command.params for name in parameter.opts}
        assert command.help is not None
        assert set(re.findall(r"(--[a-z-]+)", command.help.split("Example:")[1])) <= known, path


def test_options_that_configure_a_participant_are_settings() -> None:
    """A flag that config.toml does not know, or the other way round, would be a surprise."""
    from dataclasses import fields

    from omnilytics.daemon.commands.options import _NETWORK
    from omnilytics.daemon.config import Settings

    @click.command()
    def probe() -> None: ...

    for option in _NETWORK:
        option(probe)
    names = {parameter.name for parameter in probe.params} - {"password_file"}
    assert names <= {entry.name for entry in fields(Settings)}


def test_the_version_is_told() -> None:
    code, out, _ = run_here("--version")
    assert code == 0
    assert re.search(r"\d+\.\d+\.\d+", out)


# ---------------------------------------------------------------------------- usage


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["model", "post"], "Missing option '--test'"),
        (["owner", "run", "--data"], "requires an argument"),
        (["tasks", "--chain-id", "one"], "not a valid integer"),
        (["tasks", "--poll-second", "1"], "Did you mean.*--poll-seconds"),
        (["model", "run", "--test", "x.npz", "--lane-bits", "12"], "is not one of"),
    ],
)
def test_wrong_usage_is_code_two(arguments: list[str], says: str) -> None:
    refused(2, *arguments, says=says)


def test_a_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    refused(2, "init", "--home", file, says="is a file")


# ----------------------------------------------------------------------------- init


def test_init_makes_private_keys_and_never_overwrites_them(tmp_path: Path) -> None:
    home = tmp_path / "alice"
    code, out, err = run_here("init", "--home", home, "--light")
    assert code == 0
    assert re.fullmatch(r"0x[0-9a-fA-F]{40}\n", out), "the address alone on standard output"
    assert "back them up" in err
    assert home.stat().st_mode & 0o777 == 0o700
    assert (home / "password").stat().st_mode & 0o777 == 0o400
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    assert {path.name for path in before} == {"account.json", "box.json", "password", "config.toml"}
    refused(6, "init", "--home", home, "--light", says="has keys already", cure="another --home")
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before


def test_init_does_not_replace_the_password_of_one_key_that_is_left(tmp_path: Path) -> None:
    home = tmp_path / "alice"
    run_here("init", "--home", home, "--light")
    (home / "keys" / "account.json").unlink()
    password = (home / "password").read_bytes()
    refused(6, "init", "--home", home, "--light", says="already")
    assert (home / "password").read_bytes() == password


# ------------------------------------------------------------------------ a daemon


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("made") / "home"
    create_keys(home / "keys", "password", light=True)
    (home / "password").write_text("password\n")
    (home / "password").chmod(0o400)
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "home"
    for file in (path for path in made.rglob("*") if path.is_file()):
        target = copy / file.relative_to(made)
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        target.write_bytes(file.read_bytes())
        target.chmod(0o600)
    return copy


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.npz"
    np.savez(path, X=np.random.default_rng(1).normal(size=(40, 3)), y=np.arange(40) % 2)
    return path


def owner(home: Path, rows: object, chain: str = NOWHERE, market: str = MARKET, *more: object) -> list[object]:
    return ["owner", "run", "--home", home, "--chain", chain, "--market", market, "--data", rows, *more]


def model(home: Path, rows: object, chain: str = NOWHERE, market: str = MARKET, *more: object) -> list[object]:
    return ["model", "run", "--home", home, "--chain", chain, "--market", market, "--test", rows, *more]


@pytest.mark.parametrize("role", [owner, model])
def test_data_that_cannot_be_used_is_code_nine(role: Any, home: Path, tmp_path: Path) -> None:
    refused(9, *role(home, tmp_path / "none.npz"), says=r"none\.npz: cannot read")
    table = tmp_path / "table.csv"
    table.write_text("a,b,outcome\n1,2,yes\n3,4,no\n")
    refused(9, *role(home, table), says="which column of the table is the label", cure="--label")
    refused(9, *role(home, table, NOWHERE, MARKET, "--label", "outcme"), says="outcome")
    (tmp_path / "bad.npz").write_bytes(b"not a zip")
    refused(9, *role(home, tmp_path / "bad.npz"), says="not a readable .npz")


def test_rows_of_one_class_only_are_refused_by_the_model_owner(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "one.npz"
    np.savez(path, X=np.ones((9, 3)), y=np.ones(9))
    refused(9, *model(home, path), says="one class only|two classes")


def test_features_are_secret_heads_alone(home: Path, rows: Path) -> None:
    for protection in (["--protection", "envelope"], ["--protection", "perturbed", "--model", "mlp:8"], []):
        more = *protection, "--lane-bits", 32, "--features", 8
        refused(2, *model(home, rows, NOWHERE, MARKET, *more), says="--features is for --protection secret-head")


def test_features_and_a_trunk_of_ones_own_exclude_each_other(home: Path, rows: Path) -> None:
    more = "--protection", "secret-head", "--features", 8, "--model", "mlp:8"
    refused(2, *model(home, rows, NOWHERE, MARKET, *more), says="exclude each other under secret-head", cure="trunk")


@pytest.mark.parametrize(
    ("more", "says", "cure"),
    [
        (["--protection", "none"], "is not one of 'envelope', 'perturbed', 'secret-head'", ""),
        (["--protection", "secret-head", "--features", "0"], "not in the range 1<=x<=4096", ""),
        (["--protection", "secret-head", "--model", "mlp:0"], "mlp:0", ""),
        (["--protection", "secret-head", "--lane-bits", "8"], "needs lanes of 16 bits", "--lane-bits 16"),
        (["--protection", "perturbed", "--model", "mlp:8"], "needs lanes of 32 bits", "--lane-bits 32"),
        (["--protection", "perturbed", "--lane-bits", "32"], "hidden ReLU layers", "mlp:32"),
        (["--protection", "secret-head", "--batch-size", "0"], "batch size 0 is below 1", "--batch-size"),
        (["--clip", "nan"], "a clip of nan is not above 0", "--clip"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_protections_that_cannot_be_are_code_two(home: Path, rows: Path, more: list[str], says: str, cure: str) -> None:
    refused(2, *model(home, rows, NOWHERE, MARKET, *more), says=says, cure=cure)


@pytest.mark.parametrize(
    ("options", "architecture"),
    [
        ({}, "random:96"),
        ({"features": 8}, "random:8"),
        ({"architecture": "mlp:8,4"}, "trunk:8,4"),
        ({"protection": "perturbed", "architecture": "mlp:8,4"}, "mlp:8,4"),
        ({"protection": "envelope"}, "softmax"),
    ],
    ids=str,
)
def test_what_model_and_features_make_of_the_task(options: dict[str, Any], architecture: str) -> None:
    from omnilytics.daemon.commands.model import run
    from omnilytics.daemon.run import ModelOptions

    params = run.make_context("run", ["--test", "rows.npz"]).params | {"protection": "secret-head"} | options
    chosen = ModelOptions(**{name: params[name] for name in ModelOptions.__dataclass_fields__})
    assert chosen.wishes().architecture == architecture
    assert chosen.wishes().protection == params["protection"]


def test_a_bad_market_address_is_code_two(home: Path, rows: Path) -> None:
    refused(2, *owner(home, rows, NOWHERE, "0x12"), says="'0x12' is not 0x and 40 hex digits", cure="--market")
    refused(2, "tasks", "--home", home, "--chain", NOWHERE, says="is not 0x and 40 hex digits")
    refused(
        2, *owner(home, rows, NOWHERE, MARKET, "--withdraw-to", "alice"), says="--withdraw-to 'alice' is not an address"
    )


def test_a_bad_broker_url_is_code_two_before_anything_is_done(home: Path, rows: Path) -> None:
    for url in ("http://host", "mqtt://host:port"):
        refused(2, *owner(home, rows, NOWHERE, MARKET, "--broker", url), says="broker URL", cure="mqtt://host:1883")


def test_a_bad_chain_url_is_code_two_before_anything_is_done(home: Path, rows: Path) -> None:
    for url in ("nonsense", "ftp://host", "127.0.0.1:8545", "http://"):
        refused(2, *owner(home, rows, url), says="chain URL", cure="http://host:8545")


def test_an_unknown_setting_in_the_file_is_code_two(home: Path, rows: Path) -> None:
    (home / "config.toml").write_text("finalty_depth = 3\n")
    refused(2, *owner(home, rows), says="unknown option 'finalty_depth'.*did you mean 'finality_depth'")


def test_keys_in_trouble_are_code_six(home: Path, rows: Path, tmp_path: Path) -> None:
    (home / "keys" / "account.json").chmod(0o644)
    refused(6, *owner(home, rows), says=r"key file .*account\.json has mode 0644", cure="run: chmod 600")
    (home / "keys" / "account.json").chmod(0o600)
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong\n")
    wrong.chmod(0o600)
    more = "--password-file", wrong
    refused(6, *owner(home, rows, NOWHERE, MARKET, *more), says="cannot decrypt key file: wrong password")
    more = "--password-file", tmp_path / "none"
    refused(6, *owner(home, rows, NOWHERE, MARKET, *more), says="no password file")
    refused(6, *owner(tmp_path / "nobody", rows), says="no password file", cure="init")


def test_a_folder_in_use_is_code_eight_and_names_the_holder(home: Path, rows: Path) -> None:
    with lock_home(home):
        refused(8, *owner(home, rows), says=f"in use by pid {os.getpid()}", cure="stop that process")


def test_a_damaged_journal_is_code_nine(home: Path, rows: Path) -> None:
    (home / "journal.sqlite").write_bytes(b"no journal" * 500)
    refused(9, *owner(home, rows), says="journal .* cannot be opened", cure="backup")


def test_an_rpc_that_is_not_there_is_code_four_where_nobody_waits(home: Path) -> None:
    refused(4, "tasks", "--home", home, "--chain", NOWHERE, "--market", MARKET, says="cannot reach RPC")


async def test_a_daemon_waits_for_its_rpc_and_leaves_in_peace_when_told(home: Path, rows: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *PROGRAM, *map(str, owner(home, rows)), stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    async with asyncio.timeout(60):
        while "rpc.error" not in ((home / "log.jsonl").read_text() if (home / "log.jsonl").exists() else ""):
            assert process.returncode is None
            await asyncio.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, err = await process.communicate()
    assert process.returncode == 0, err
    assert b"Traceback" not in err
    last = json.loads((home / "log.jsonl").read_text().splitlines()[-1])
    assert (last["event"], last["data"]["reason"]) == ("daemon.exit", "signal")


# -------------------------------------------------------------------- on a real chain


@contextlib.asynccontextmanager
async def small_market(anvil: chain_process.Chain) -> AsyncIterator[tuple[LocalMarket, str, str]]:
    async with open_market(anvil) as market:
        yield market, anvil.rpc_url, "0x" + market.chain.market.hex()


async def test_the_wrong_chain_or_market_is_code_seven(anvil: chain_process.Chain, home: Path, rows: Path) -> None:
    async with small_market(anvil) as (_, url, address):
        await refused_there(
            7, *owner(home, rows, url, address, "--chain-id", 1), says="RPC chain id 31337, config expects 1"
        )
        await refused_there(7, *owner(home, rows, url, MARKET), says=f"no contract code at {MARKET}", cure="--market")
        await refused_there(7, "tasks", "--chain", url, "--market", MARKET, says="no contract code")
        await refused_there(
            4, *owner(home, rows, url, address, "--task", 5), says="NoSuchTask|no task 5", cure="--task|tasks|log"
        )


async def test_a_model_owner_without_money_is_code_six(anvil: chain_process.Chain, home: Path, rows: Path) -> None:
    async with small_market(anvil) as (market, url, address):
        more: tuple[object, ...] = ("--rounds", 1, "--groups", 3, "--faulty", 0)
        await refused_there(6, *model(home, rows, url, address, *more), says="has 0 wei; createTask needs", cure="send")
        more = "--rounds", 1, "--groups", 3, "--faulty", 1
        await refused_there(2, *model(home, rows, url, address, *more), says="3 groups cannot tolerate f=1; need 5")
        more = "--model", "transformer", "--rounds", 1
        await refused_there(2, *model(home, rows, url, address, *more), says="transformer")
        assert await market.chain.task_count() == 0


async def test_tasks_are_listed_for_people_and_for_programs(anvil: chain_process.Chain, home: Path) -> None:
    async with small_market(anvil) as (market, url, address):
        where = "--home", home, "--chain", url, "--market", address
        code, out, err = await run_beside("tasks", *where)
        assert (code, out, err) == (0, "", "no tasks yet\n")
        code, out, _ = await run_beside("tasks", *where, "--json")
        assert json.loads(out) == {"version": 1, "command": "tasks list", "data": {"tasks": []}}
        await market.create()
        code, out, _ = await run_beside("tasks", *where)
        assert code == 0
        assert re.match(r" +1 joining +round 0 of 2, 0 owners, 1000000000000000 wei a round", out)
        code, out, _ = await run_beside("tasks", *where, "--json")
        (task,) = json.loads(out)["data"]["tasks"]
        assert (task["task"], task["status"], task["stake_wei"]) == (1, "joining", 4 * 10**15)


# ---------------------------------------------------------------- policy and ledger


def test_the_policy_in_force_is_shown_with_its_defaults_marked(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[policy]\nminimum_reward = 7\n[privacy]\nclip_norm = 2\n")
    code, out, _ = run_here("policy", "show", "--home", tmp_path)
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert re.match(r"minimum_reward +7 +wei", lines["minimum_reward"])
    assert re.match(r'architectures +\["\*"\] +\(default\) +patterns', lines["architectures"])
    assert out.endswith("local noise: noise_multiplier 0, clip_norm 2, delta 1e-05\n")
    code, out, _ = run_here("policy", "show", "--home", tmp_path, "--json")
    said = json.loads(out)["data"]
    assert code == 0
    assert said["policy"]["minimum_reward"] == {"value": 7, "default": False}
    assert said["policy"]["maximum_epsilon"] == {"value": None, "default": True}
    assert said["policy"]["blocked_model_owners"] == {"value": [], "default": True}
    assert said["privacy"]["clip_norm"] == {"value": 2.0, "default": False}
    assert run_here("policy", "show", "--home", tmp_path / "none")[1].endswith("local noise: off\n")


def test_mistakes_in_policy_and_privacy_are_code_two(home: Path, rows: Path) -> None:
    (home / "config.toml").write_text("[policy]\nminimum_rewards = 7\n")
    for arguments in (["policy", "show", "--home", home], owner(home, rows)):
        refused(2, *arguments, says="unknown key 'minimum_rewards' in .policy.; did you mean 'minimum_reward'")
    (home / "config.toml").write_text("[privacy]\nnoise_multiplier = 1\n")
    refused(2, *owner(home, rows), says="needs a clip_norm", cure="set clip_norm")
    (home / "config.toml").write_text("[privacy]\nnoise_multiplier = 1\nclip_norm = 1\n")
    with mock.patch.dict(sys.modules, {"dp_accounting": None}):
        refused(2, *owner(home, rows), says="needs the package dp-accounting", cure=r"omnilytics\[privacy\]")


def test_the_ledger_is_shown_for_people_and_for_programs(tmp_path: Path) -> None:
    code, out, err = run_here("ledger", "--home", tmp_path)
    assert (code, out, err) == (0, "", "nothing was posted yet\n")
    assert list(tmp_path.iterdir()) == [], "looking makes no journal"
    whom = bytes([1]) * 20
    with contextlib.closing(Journal(tmp_path / "journal.sqlite")) as journal:
        for number, epsilon in ((1, 0.5), (2, 0.75)):
            how = Mechanism(4.0, 64, 80)
            entry = Exposure(3, number, bytes(20), whom, "softmax", bytes(32), 3, "envelope", how, 2.0, 1e-5, epsilon)
            journal.plan_exposure(entry)
            journal.enter_exposure(3, number)
    code, out, _ = run_here("ledger", "--home", tmp_path)
    assert (code, out) == (
        0,
        f"task 3 of 0x{'01' * 20}: 2 rounds, 64 of 80 rows in each, in groups of 3, softmax, envelope, "
        "noise 4, epsilon 0.750 by then\nepsilon 0.750 at delta 1e-05, over all rounds\n",
    )
    said = json.loads(run_here("ledger", "--home", tmp_path, "--json")[1])["data"]
    assert (said["epsilon"], len(said["rounds"])) == (0.75, 2)
    assert said["rounds"][1]["model_owner"] == "0x" + "01" * 20
    assert (said["rounds"][1]["batch_rows"], said["rounds"][1]["rows"]) == (64, 80)
    with contextlib.closing(Journal(tmp_path / "journal.sqlite")) as journal:
        journal.plan_exposure(replace(entry, round=9, mechanism=Mechanism(0.0, 64, 80), epsilon=None))
        journal.enter_exposure(3, 9)
    code, out, _ = run_here("ledger", "--home", tmp_path)
    assert out.endswith("no noise\n1 of 3 rounds had no noise: their epsilon has no bound\n")


async def test_a_policy_is_checked_against_a_task(anvil: chain_process.Chain, home: Path, rows: Path) -> None:
    async with small_market(anvil) as (market, url, address):
        spec = TaskSpec("softmax", 3, ("0", "1"), 1.0, 16)
        params = replace(PARAMS, value_count=spec.side.value_count, chunk_words=1)
        await market.create(params, spec.encode())
        asked = "policy", "check", "--home", home, "--chain", url, "--market", address, "--task", 1
        assert await run_beside(*asked) == (0, "task 1 would be joined\n", "")
        code, out, _ = await run_beside(*asked, "--json", "--data", rows)
        assert (code, json.loads(out)) == (0, envelope("policy check", {"task": 1, "joins": True, "reasons": []}))
        (home / "config.toml").write_text('[policy]\nminimum_reward = 10000000000000000\nprotections = ["none"]\n')
        reward = r"task 1 pays 1000000000000000 wei .* wants 10000000000000000 \(minimum_reward\)"
        await refused_there(2, *asked, says=reward, cure="change minimum_reward under .policy.")
        await refused_there(2, *owner(home, rows, url, address, "--task", 1), says=reward, cure="config.toml")
        await refused_there(2, *asked, "--max-stake", 1, says="wants a stake of .* the policy allows 1 ")
        code, out, _ = await run_beside(*asked, "--json")
        assert code == 2
        assert [reason["key"] for reason in json.loads(out)["data"]["reasons"]] == ["minimum_reward", "protections"]
        await refused_there(4, *asked[:-1], 5, says="NoSuchTask|no task 5")


def test_a_strangers_description_cannot_steer_the_terminal() -> None:
    assert _printable("\x1b[2Jfine\n\u202e\x07é") == "?[2Jfine???é"
