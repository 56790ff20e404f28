"""Key files: only their owner reads them, and whatever is wrong with them is said in words that help."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from omnilytics.daemon import keystore
from omnilytics.daemon.keystore import Keys, create_keys, load_keys, read_password, read_transaction
from omnilytics.peers.errors import KeyFileError

PASSWORD = "a password with ümlauts"
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Keys]:
    folder = tmp_path_factory.mktemp("keys") / "deep" / "keys"
    return folder, create_keys(folder, PASSWORD, light=True)


@pytest.fixture
def folder(made: tuple[Path, Keys], tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    copy = tmp_path / "keys"
    copy.mkdir(mode=0o700)
    for file in made[0].iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
        (copy / file.name).chmod(0o600)
    return copy


def test_what_was_made_is_read_back(made: tuple[Path, Keys]) -> None:
    folder, keys = made
    again = load_keys(folder, PASSWORD)
    assert again.secrets() == keys.secrets()
    assert again.address == keys.address
    assert len(again.address) == 20
    assert again.box == keys.box


def test_files_and_folder_are_private(made: tuple[Path, Keys]) -> None:
    folder, _ = made
    assert folder.stat().st_mode & 0o777 == 0o700
    assert sorted(file.name for file in folder.iterdir()) == ["account.json", "box.json"]
    for file in folder.iterdir():
        assert file.stat().st_mode & 0o777 == 0o600


def test_files_are_keystores_of_version_three_without_the_secret(made: tuple[Path, Keys]) -> None:
    folder, keys = made
    for name, secret in zip(("account.json", "box.json"), keys.secrets(), strict=True):
        text = (folder / name).read_text(encoding="utf-8")
        assert json.loads(text)["version"] == 3
        assert json.loads(text)["crypto"]["kdf"] == "scrypt"
        assert secret.hex() not in text


def test_two_folders_have_different_keys(made: tuple[Path, Keys], tmp_path: Path) -> None:
    other = create_keys(tmp_path / "other", PASSWORD, light=True)
    assert not set(other.secrets()) & set(made[1].secrets())
    assert len(set(other.secrets())) == 2


def test_keys_that_are_there_are_never_overwritten(folder: Path) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(KeyFileError, match="is there already") as caught:
        create_keys(folder, PASSWORD, light=True)
    assert "move it away" in caught.value.help
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o666])
@pytest.mark.parametrize("name", ["account.json", "box.json"])
def test_a_key_file_open_to_others_is_refused(folder: Path, name: str, mode: int) -> None:
    (folder / name).chmod(mode)
    with pytest.raises(KeyFileError, match=f"key file .*{name} has mode {mode:04o}") as caught:
        load_keys(folder, PASSWORD)
    assert caught.value.help == f"run: chmod 600 {folder / name}"
    assert caught.value.exit_code == 6


@pytest.mark.parametrize("mode", [0o400, 0o600])
def test_a_key_file_only_its_owner_reads_is_fine(folder: Path, mode: int) -> None:
    (folder / "account.json").chmod(mode)
    load_keys(folder, PASSWORD)


@AS_ROOT
def test_a_key_file_of_another_user_is_refused(folder: Path) -> None:
    os.chown(folder / "box.json", 12345, 12345)
    with pytest.raises(KeyFileError, match="belongs to another user"):
        load_keys(folder, PASSWORD)


def test_a_wrong_password_is_called_that(folder: Path) -> None:
    with pytest.raises(KeyFileError, match="cannot decrypt key file: wrong password") as caught:
        load_keys(folder, "another")
    assert "--password-file" in caught.value.help


def test_a_missing_key_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="no key file") as caught:
        load_keys(tmp_path, PASSWORD)
    assert "omnilytics init" in caught.value.help


def _crypto(**changes: Any) -> dict[str, Any]:
    good = {
        "version": 3,
        "crypto": {
            "cipher": "aes-128-ctr",
            "cipherparams": {"iv": "00" * 16},
            "ciphertext": "00" * 32,
            "kdf": "scrypt",
            "kdfparams": {"dklen": 32, "n": 2, "r": 1, "p": 1, "salt": "00" * 16},
            "mac": "00" * 32,
        },
    }
    return good | changes


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b"\xff\xfe\x00",
        b"{}",
        b"[]",
        b"3",
        b'"text"',
        b"null",
        b'{"version": 3}',
        json.dumps(_crypto(version=1)).encode(),
        json.dumps(_crypto(version=9)).encode(),
        json.dumps(_crypto(crypto=3)).encode(),
        json.dumps(_crypto(crypto={})).encode(),
        json.dumps(_crypto(crypto=_crypto()["crypto"] | {"kdf": "none"})).encode(),
        json.dumps(_crypto(crypto=_crypto()["crypto"] | {"kdfparams": None})).encode(),
        json.dumps(_crypto(crypto=_crypto()["crypto"] | {"mac": 7})).encode(),
    ],
)
def test_whatever_is_no_key_file_is_refused_in_words(folder: Path, content: bytes) -> None:
    (folder / "account.json").write_bytes(content)
    with pytest.raises(KeyFileError):
        load_keys(folder, PASSWORD)


def test_a_key_file_of_another_version_is_called_that(folder: Path) -> None:
    (folder / "account.json").write_text(json.dumps(_crypto(version=4)))
    with pytest.raises(KeyFileError, match="is of version 4; this program reads version 3"):
        load_keys(folder, PASSWORD)


def test_a_folder_in_a_key_files_place_is_refused(folder: Path) -> None:
    (folder / "account.json").unlink()
    (folder / "account.json").mkdir(mode=0o700)
    with pytest.raises(KeyFileError):
        load_keys(folder, PASSWORD)


# ----------------------------------------------------------------------- password


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n"])
def test_a_password_is_the_line_without_its_end(tmp_path: Path, ending: bytes) -> None:
    file = tmp_path / "password"
    file.write_bytes(b" spaces count " + ending)
    file.chmod(0o400)
    assert read_password(file) == " spaces count "


def test_a_password_file_open_to_others_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("secret")
    file.chmod(0o644)
    with pytest.raises(KeyFileError, match="has mode 0644") as caught:
        read_password(file)
    assert "secret" not in str(caught.value)


def test_a_missing_password_file_is_called_that(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="no password file") as caught:
        read_password(tmp_path / "password")
    assert "--password-file" in caught.value.help


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
def test_a_password_file_that_is_no_text_is_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "password"
    if content is None:
        file.mkdir(mode=0o700)
    else:
        file.write_bytes(content)
        file.chmod(0o600)
    with pytest.raises(KeyFileError, match="cannot be read"):
        read_password(file)


# ------------------------------------------------------------------------ signing


def test_signing_the_same_gives_the_same_bytes(made: tuple[Path, Keys]) -> None:
    """A retry after a restart is then the same transaction."""
    _, keys = made
    transaction: dict[str, Any] = {
        "type": 2, "chainId": 1, "to": "0x" + "11" * 20, "data": b"", "value": 0, "nonce": 0, "gas": 21000,
        "maxFeePerGas": 1, "maxPriorityFeePerGas": 1,
    }  # fmt: skip
    assert keys.sign(dict(transaction)) == keys.sign(dict(transaction))
    assert keys.sign(transaction | {"nonce": 1})[1] != keys.sign(transaction)[1]


def test_keys_do_not_show_themselves(made: tuple[Path, Keys]) -> None:
    _, keys = made
    for secret in keys.secrets():
        assert secret.hex() not in repr(keys)
        assert repr(secret)[2:-1] not in repr(keys)


def test_strong_keys_are_the_default() -> None:
    assert keystore._STRONG == 2**18
    assert create_keys.__defaults__ == (False,)


@pytest.mark.parametrize("data", [b"", b"\x01\x02" * 40])
def test_a_signed_transaction_is_read_back_and_signed_to_the_same_bytes(made: tuple[Path, Keys], data: bytes) -> None:
    """What an earlier life has journalled can be paid better by this one."""
    _, keys = made
    said = {
        "type": 2, "chainId": 31337, "to": keys.account.address, "data": data, "value": 3, "nonce": 4, "gas": 50_000,
        "maxFeePerGas": 10**9, "maxPriorityFeePerGas": 1,
    }  # fmt: skip
    raw, tx_hash = keys.sign(said)
    read = read_transaction(raw)
    assert read == said
    assert keys.sign(read) == (raw, tx_hash)
