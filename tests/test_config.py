"""Settings: flags over the file over defaults, and mistakes in words that name the cure."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from omnilytics.daemon.config import Settings, find_settings, load_settings
from omnilytics.peers.errors import ConfigurationError


def write(home: Path, text: str) -> None:
    (home / "config.toml").write_text(text, encoding="utf-8")


def test_without_a_file_everything_has_its_default(tmp_path: Path) -> None:
    assert load_settings(tmp_path, {}) == Settings(tmp_path)


def test_the_file_is_over_defaults_and_flags_are_over_the_file(tmp_path: Path) -> None:
    write(tmp_path, 'chain = "http://file"\nfinality_depth = 7\npoll_seconds = 2\nverbose = true\nchain_id = 5\n')
    settings = load_settings(tmp_path, {"chain": "http://flag", "broker": None, "finality_depth": None})
    assert settings.chain == "http://flag"
    assert settings.finality_depth == 7
    assert settings.poll_seconds == 2
    assert settings.verbose is True
    assert settings.chain_id == 5
    assert settings.broker == Settings(tmp_path).broker


def test_a_flag_of_zero_or_false_counts(tmp_path: Path) -> None:
    write(tmp_path, "finality_depth = 7\nverbose = true\n")
    settings = load_settings(tmp_path, {"finality_depth": 0, "verbose": False})
    assert settings.finality_depth == 0
    assert settings.verbose is False


@pytest.mark.parametrize(
    ("name", "meant"),
    [("finalty_depth", "finality_depth"), ("brokr", "broker"), ("gas_price_cup", "gas_price_cap")],
)
def test_a_misspelt_option_is_asked_back(tmp_path: Path, name: str, meant: str) -> None:
    write(tmp_path, f"{name} = 1\n")
    with pytest.raises(ConfigurationError, match=f"unknown option '{name}' in .*config.toml; did you mean '{meant}'"):
        load_settings(tmp_path, {})


@pytest.mark.parametrize("name", ["xyzzy", "home"])
def test_an_unknown_option_is_refused_without_a_guess(tmp_path: Path, name: str) -> None:
    write(tmp_path, f'{name} = "x"\n')
    with pytest.raises(ConfigurationError, match=f"unknown option '{name}'") as caught:
        load_settings(tmp_path, {})
    assert "did you mean" not in caught.value.message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "line",
    [
        "chain = 5",
        "market = true",
        'finality_depth = "3"',
        "finality_depth = 1.5",
        "finality_depth = true",
        'chain_id = "1"',
        "chain_id = true",
        "chain_id = 1.0",
        'poll_seconds = "1"',
        "poll_seconds = false",
        "verbose = 1",
        'verbose = "yes"',
        'broker = ["a"]',
        "gas_price_cap = {}",
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_name(tmp_path: Path, line: str) -> None:
    write(tmp_path, line + "\n")
    with pytest.raises(ConfigurationError, match=f"option '{line.split()[0]}' has a value of the wrong type"):
        load_settings(tmp_path, {})


def test_a_text_of_the_wrong_type_is_not_shown(tmp_path: Path) -> None:
    write(tmp_path, 'broker = ["mqtt://me:hunter2@b"]\n')
    with pytest.raises(ConfigurationError, match="wrong type: list") as caught:
        load_settings(tmp_path, {}, {})
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize(
    "line",
    ["finality_depth = -1", "poll_seconds = -0.5", "poll_seconds = nan", "patience_seconds = inf", "chain_id = -1"],
)
def test_a_value_that_cannot_be_is_refused_by_name(tmp_path: Path, line: str) -> None:
    write(tmp_path, line + "\n")
    with pytest.raises(ConfigurationError, match=f"option '{line.split()[0]}' is"):
        load_settings(tmp_path, {})


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('notify = "maybe"', "option 'notify' is 'maybe'"),
        ('log_level = "loud"', "option 'log_level' is 'loud'"),
        ("log_files = 0", "'log_files' is 0"),
    ],
)
def test_a_word_that_is_none_of_those_possible_is_refused(tmp_path: Path, line: str, says: str) -> None:
    write(tmp_path, line)
    with pytest.raises(ConfigurationError, match=says):
        load_settings(tmp_path, {})


def test_tables_of_others_are_handed_over_as_they_stand(tmp_path: Path) -> None:
    write(tmp_path, 'chain = "http://file"\n[policy]\nminimum_reward = 5\n[privacy]\nclip_norm = 1.5\n')
    settings = load_settings(tmp_path, {"chain": "http://flag"})
    assert settings.chain == "http://flag"
    assert settings.table("policy") == {"minimum_reward": 5}
    assert settings.table("privacy") == {"clip_norm": 1.5}
    assert Settings(tmp_path).table("policy") == {}
    assert hash(settings) is not None


def test_a_misspelt_table_is_asked_back(tmp_path: Path) -> None:
    write(tmp_path, "[polcy]\nminimum_reward = 5\n")
    with pytest.raises(ConfigurationError, match=r"unknown option 'polcy' .*; did you mean 'policy'"):
        load_settings(tmp_path, {})
    write(tmp_path, "[tables]\n")
    with pytest.raises(ConfigurationError, match="unknown option 'tables'"):
        load_settings(tmp_path, {})


def test_a_value_where_a_table_belongs_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "policy = 5\n")
    with pytest.raises(ConfigurationError, match=r"'policy' in .* is no table") as caught:
        load_settings(tmp_path, {})
    assert "[policy]" in caught.value.help


@pytest.mark.parametrize("text", ["chain = ", "[[[", "chain = 'a'\nchain = 'b'", "\x00"])
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, text: str) -> None:
    write(tmp_path, text)
    with pytest.raises(ConfigurationError, match=r"config\.toml"):
        load_settings(tmp_path, {})


def test_a_key_of_thousands_of_parts_is_refused_before_it_costs_memory(tmp_path: Path) -> None:
    for key in ("policy" + ".a" * 5_000, "[data" + " . 'a'" * 1_000 + "]\nfile"):
        write(tmp_path, f"{key} = 1\n")
        with pytest.raises(ConfigurationError, match="nested too deep"):
            load_settings(tmp_path, {}, {})


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match=r"config\.toml"):
        load_settings(tmp_path, {})


def test_a_folder_in_its_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.toml").mkdir()
    with pytest.raises(ConfigurationError, match=r"config\.toml"):
        load_settings(tmp_path, {})


@pytest.mark.parametrize("prefix", ["0x", ""])
def test_the_markets_address_is_twenty_bytes(tmp_path: Path, prefix: str) -> None:
    assert Settings(tmp_path, market=prefix + "Ab" * 20).market_address == b"\xab" * 20


@pytest.mark.parametrize(
    "text", ["", "0x", "0x12", "0x" + "ab" * 21, "0x" + "zz" * 20, "alice.eth", "0x0x" + "ab" * 19]
)
def test_what_is_no_address_is_quoted(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError, match="is not 0x and 40 hex digits") as caught:
        _ = Settings(tmp_path, market=text).market_address
    assert f"'{text}'" in caught.value.message
    assert caught.value.help == "set --market"


def test_everything_lives_in_the_home(tmp_path: Path) -> None:
    settings: Any = Settings(tmp_path)
    for name in ("journal_path", "log_path", "keys_folder", "password_path"):
        assert getattr(settings, name).parent == tmp_path


def test_the_environment_is_over_the_file_and_under_flags(tmp_path: Path) -> None:
    write(tmp_path, 'chain = "http://file"\nfinality_depth = 7\ngas_tip = 3\n')
    environment = {
        "OMNILYTICS_CHAIN": "http://environment",
        "OMNILYTICS_FINALITY_DEPTH": "9",
        "OMNILYTICS_CHAIN_ID": "31337",
        "OMNILYTICS_POLL_SECONDS": "1.5",
        "OMNILYTICS_VERBOSE": "True",
        "OMNILYTICS_HOME": "/elsewhere",
        "OMNILYTICS_PASSWORD_FILE": "/elsewhere/password",
        "PATH": "/bin",
    }
    settings, sources = find_settings(tmp_path, {"finality_depth": 1, "broker": None}, environment)
    assert (settings.chain, settings.finality_depth, settings.chain_id) == ("http://environment", 1, 31337)
    assert (settings.poll_seconds, settings.verbose, settings.gas_tip) == (1.5, True, 3)
    told = {name: sources[name] for name in ("chain", "finality_depth", "gas_tip", "broker", "verbose")}
    assert told == {
        "chain": "OMNILYTICS_CHAIN",
        "finality_depth": "flag",
        "gas_tip": "config.toml",
        "broker": "default",
        "verbose": "OMNILYTICS_VERBOSE",
    }


def test_every_setting_has_a_source_and_a_variable(tmp_path: Path) -> None:
    _, sources = find_settings(tmp_path, {}, {})
    assert set(sources) == {entry.name for entry in fields(Settings)} - {"home", "tables"}
    for name in sources:
        with pytest.raises(ConfigurationError, match="did you mean OMNILYTICS_"):
            load_settings(tmp_path, {}, {f"OMNILYTICS_{name.upper()}X": "1"})


@pytest.mark.parametrize(
    ("variable", "text", "says"),
    [
        ("OMNILYTICS_MARKT", "0x", "unknown variable OMNILYTICS_MARKT.*did you mean OMNILYTICS_MARKET"),
        ("OMNILYTICS_XYZZY", "s3cret", "unknown variable OMNILYTICS_XYZZY in the environment$"),
        ("OMNILYTICS_GAS_TIP", "s3cret", "OMNILYTICS_GAS_TIP in the environment is not a number"),
        ("OMNILYTICS_CHAIN_ID", "1.5", "OMNILYTICS_CHAIN_ID in the environment is not a number"),
        ("OMNILYTICS_VERBOSE", "s3cret", "OMNILYTICS_VERBOSE in the environment is not true or false"),
        ("OMNILYTICS_POLL_SECONDS", "nan", "option 'poll_seconds' is not finite"),
        ("OMNILYTICS_GAS_TIP", "-1", "option 'gas_tip' is negative"),
    ],
)
def test_a_variable_that_cannot_be_is_named_and_its_value_is_not(
    tmp_path: Path, variable: str, text: str, says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        load_settings(tmp_path, {}, {variable: text})
    assert "s3cret" not in caught.value.message + caught.value.help


def test_the_process_environment_is_read_where_no_other_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMNILYTICS_MARKET", "0x" + "ab" * 20)
    assert load_settings(tmp_path, {}).market_address == b"\xab" * 20
