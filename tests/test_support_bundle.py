"""The archive for reports: it has what helps, and none of the secrets that were planted everywhere."""

import gzip
import json
import tarfile
from pathlib import Path

import pytest

from omnilytics.daemon.keystore import create_keys
from omnilytics.daemon.support_bundle import write_bundle
from tests.test_cli import refused, run_here

RPC_KEY = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
BROKER_PASSWORD = "br0ker-p%40ss"
HOOK = "T0000/B0000/hookhookhook"
KEYS_PASSWORD = 'key"s p\\assword'


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with secrets where they belong and, in its log, where they do not."""
    home = tmp_path / "home"
    keys = create_keys(home / "keys", KEYS_PASSWORD, light=True)
    (home / "password").write_text(KEYS_PASSWORD + "\n")
    (home / "password").chmod(0o400)
    (home / "config.toml").write_text(
        f'# an old key: {RPC_KEY}\nchain = "http://127.0.0.1:1/v3/{RPC_KEY}"\nmarket = "0x{"11" * 20}"\n'
        f'broker = "mqtt://alice:{BROKER_PASSWORD}@127.0.0.1:1"\n'
        f'[data.rows]\nfile = "https://hooks.example/{HOOK}"\n'
    )
    account, box = keys.secrets()
    leaks = [
        f"http://127.0.0.1:1/v3/{RPC_KEY}", RPC_KEY, BROKER_PASSWORD, "br0ker-p@ss", KEYS_PASSWORD,
        account.hex(), "0x" + account.hex().upper(), repr(box), str(list(account)),
    ]  # fmt: skip
    lines = [
        {"ts": "2026-01-01T00:00:00", "event": "leak", "level": "info", "role": "owner", "msg": leak} for leak in leaks
    ]
    (home / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.chdir(tmp_path)
    return home


def contents(path: Path) -> dict[str, str]:
    with tarfile.open(path) as archive:
        found = {}
        for entry in archive.getmembers():
            file = archive.extractfile(entry)
            assert file is not None
            found[entry.name.split("/")[1]] = file.read().decode()
    return found


def test_no_planted_secret_is_in_the_archive(home: Path, tmp_path: Path) -> None:
    code, out, err = run_here("bundle", "--home", home)
    assert code == 0, err
    path = tmp_path / out.strip()
    assert path.stat().st_mode & 0o777 == 0o600
    files = contents(path)
    assert set(files) == {"versions.json", "doctor.json", "config.json", "files.txt", "log.jsonl"}
    account = json.loads((home / "keys" / "account.json").read_text())
    from omnilytics.daemon.keystore import load_keys

    secrets = [secret.hex() for secret in load_keys(home / "keys", KEYS_PASSWORD).secrets()]
    planted = [RPC_KEY, BROKER_PASSWORD, "br0ker-p@ss", "hookhookhook", KEYS_PASSWORD, *secrets]
    planted += [account["crypto"]["ciphertext"], json.dumps(KEYS_PASSWORD)[1:-1]]
    whole = gzip.decompress(path.read_bytes()).decode(errors="replace")
    for secret in planted:
        assert secret.lower() not in whole.lower(), secret
    assert whole.count("[redacted]") >= 9 + 2
    assert str(list(bytes.fromhex(secrets[0]))) not in whole


def test_it_has_what_a_report_needs(home: Path) -> None:
    code, out, _ = run_here("bundle", "--home", home, "--json", "--out", "report.tar.gz")
    said = json.loads(out)
    assert (code, said["version"], said["command"], said["data"]["file"]) == (0, 1, "bundle", "report.tar.gz")
    files = contents(Path("report.tar.gz"))
    assert set(said["data"]["contains"]) == set(files)
    assert json.loads(files["versions.json"])["omnilytics"]
    checks = {check["name"]: check for check in json.loads(files["doctor.json"])}
    assert (checks["rpc"]["status"], checks["keys"]["status"]) == ("failed", "passed")
    settings = json.loads(files["config.json"])["settings"]
    assert settings["chain"] == {"value": "http://127.0.0.1:1/[redacted]", "source": "config.toml"}
    assert settings["gas_tip"]["source"] == "default"
    assert "-rw------- " in files["files.txt"] and "keys/account.json" in files["files.txt"]
    assert len(files["log.jsonl"].splitlines()) == 9


def test_a_folder_in_trouble_makes_a_bundle_too(home: Path) -> None:
    (home / "config.toml").write_text((home / "config.toml").read_text().replace("chain =", "chian ="))
    (home / "password").unlink()
    code, _, err = run_here("bundle", "--home", home, "--out", "report.tar.gz")
    assert code == 0, err
    files = contents(Path("report.tar.gz"))
    assert "cannot be read" in files["config.json"]
    assert "did you mean 'chain'" in files["doctor.json"]
    for secret in (RPC_KEY, BROKER_PASSWORD, "br0ker-p@ss"):
        assert secret not in "".join(files.values())


def test_nothing_is_overwritten_and_no_folder_is_no_bundle(home: Path, tmp_path: Path) -> None:
    (tmp_path / "report.tar.gz").write_text("mine")
    refused(2, "bundle", "--home", home, "--out", "report.tar.gz", says="is there already", cure="--out")
    assert (tmp_path / "report.tar.gz").read_text() == "mine"
    refused(2, "bundle", "--home", tmp_path / "nobody", says="no folder .*nobody", cure="--home")


def test_every_file_is_searched(tmp_path: Path) -> None:
    path = tmp_path / "b.tar.gz"
    write_bundle(path, {"a.txt": "x s3cret y", "b.txt": "s3cret"}, ["s3cret"], made=0)
    assert contents(path) == {"a.txt": "x [redacted] y", "b.txt": "[redacted]"}
