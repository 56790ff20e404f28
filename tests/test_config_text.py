"""The file that init writes says every setting, and means what was given and nothing else."""

import tomllib
from dataclasses import fields
from pathlib import Path

from omnilytics.daemon.config import Settings, load_settings
from omnilytics.daemon.config_text import config_text
from omnilytics.daemon.data_registry import DataSource


def test_without_anything_given_nothing_is_set(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(config_text({}, {}))
    assert load_settings(tmp_path, {}, {}) == Settings(tmp_path)


def test_every_comment_is_a_setting_with_its_default(tmp_path: Path) -> None:
    lines = [line.removeprefix("# ") for line in config_text({}, {}).splitlines()]
    names = {entry.name for entry in fields(Settings)} - {"home", "tables"}
    settings = [line for line in lines if line.split(" = ")[0] in names]
    assert {line.split(" = ")[0] for line in settings} == names
    (tmp_path / "config.toml").write_text("\n".join(settings))
    assert load_settings(tmp_path, {}, {}) == Settings(tmp_path, chain_id=31337)


def test_every_setting_has_its_meaning_above_it() -> None:
    lines = config_text({}, {}).splitlines()
    meanings = {}
    for entry in fields(Settings):
        if entry.name in ("home", "tables"):
            continue
        (place,) = (number for number, line in enumerate(lines) if line.startswith(f"# {entry.name} = "))
        meanings[entry.name] = lines[place - 1]
    for name, meaning in meanings.items():
        assert meaning.startswith("# ") and meaning.endswith("."), f"{name} has no meaning in config_text"
        assert len(meaning) <= 120
    assert len(set(meanings.values())) == len(meanings)


def test_what_is_given_is_set(tmp_path: Path) -> None:
    given = {"chain": "http://a", "chain_id": 5, "market": "0x" + "11" * 20, "broker": None, "verbose": True}
    text = config_text(given, {"rows": DataSource(Path("/srv/rows.csv"), "y")})
    (tmp_path / "config.toml").write_text(text)
    said = load_settings(tmp_path, {}, {})
    assert (said.chain, said.chain_id, said.market, said.verbose) == ("http://a", 5, "0x" + "11" * 20, True)
    assert said.broker == Settings(tmp_path).broker
    assert tomllib.loads(text)["data"] == {"rows": {"file": "/srv/rows.csv", "label": "y"}}
