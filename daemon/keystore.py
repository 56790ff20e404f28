"""Key files: Ethereum keystore v3 for the account and, in the same format, for the X25519 box key."""

from __future__ import annotations

import omnilytics.daemon.lean_imports  # noqa: F401  (before eth_account, which web3 imports too)

# isort: split
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eth_account import Account
from eth_account.messages import encode_defunct
from eth_account.signers.local import LocalAccount
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from eth_keys.exceptions import BadSignature
from eth_utils.address import to_checksum_address
from eth_utils.exceptions import ValidationError
from hexbytes import HexBytes

from omnilytics.daemon.recursion import keep_recursion_bounded
from omnilytics.peers.errors import KeyFileError
from omnilytics.peers.keys import BoxIdentity, public_from_secret

# scrypt at its usual strength takes 300 MB and a second a key; testbeds with dozens of throw-away
# keys on one machine ask for the light setting.
_STRONG = 2**18
_LIGHT = 2**12
# Of the Web3 secret storage definition, which account and box keys are stored by.
_VERSION = 3
# A key file has some 500 bytes. More work than this to open one is a file that was tampered with.
_MOST_BYTES = 16_384
_MOST_MEMORY_BYTES = 1 << 30
_MOST_ROUNDS = 10_000_000

keep_recursion_bounded()


@dataclass(frozen=True)
class Keys:
    """A participant's two long-term keys."""

    account: LocalAccount = field(repr=False)
    box: BoxIdentity = field(repr=False)

    @property
    def address(self) -> bytes:
        """The account's address, 20 bytes."""
        return bytes.fromhex(self.account.address[2:])

    def sign(self, transaction: dict[str, Any]) -> tuple[bytes, bytes]:
        """Signs an EIP-1559 transaction: (raw bytes, hash)."""
        signed = self.account.sign_transaction(transaction)
        return bytes(signed.raw_transaction), bytes(signed.hash)

    def sign_text(self, text: str) -> bytes:
        """An EIP-191 (personal_sign) signature of a text, 65 bytes: proof that the account is ours."""
        return bytes(self.account.sign_message(encode_defunct(text=text)).signature)

    def secrets(self) -> tuple[bytes, bytes]:
        """For the log's redactor only."""
        return bytes(self.account.key), self.box.secret


def create_keys(folder: Path, password: str, light: bool = False) -> Keys:
    """Makes both key files (mode 0600). Raises KeyFileError where one is there already."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    account_secret, box_secret = os.urandom(32), os.urandom(32)
    for name, secret in (("account.json", account_secret), ("box.json", box_secret)):
        path = folder / name
        stored = Account.encrypt(secret, password, kdf="scrypt", iterations=_LIGHT if light else _STRONG)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError as error:
            raise KeyFileError(f"key file {path} is there already", help="move it away first") from error
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(stored, file)
            file.flush()
            os.fsync(file.fileno())
    return Keys(Account.from_key(account_secret), _box(box_secret))


def load_keys(folder: Path, password: str) -> Keys:
    """Reads both key files. Raises KeyFileError in words that say what to do."""
    return Keys(
        _account(_load(folder / "account.json", password)),
        _box(_load(folder / "box.json", password)),
    )


def _account(secret: bytes) -> LocalAccount:
    try:
        account: LocalAccount = Account.from_key(secret)
    except (ValidationError, ValueError) as error:
        raise KeyFileError("account.json holds no secp256k1 key", help="restore it from a backup") from error
    return account


def _box(secret: bytes) -> BoxIdentity:
    if len(secret) != 32:
        raise KeyFileError(f"box.json holds {len(secret)} bytes, no X25519 key", help="restore it from a backup")
    return BoxIdentity(secret, public_from_secret(secret))


def _check_cost(kdf: dict[str, Any]) -> None:
    """Raises TypeError or KeyError for a file whose key would cost more memory or time than any that we make."""
    if "n" in kdf:
        n, r, p = (kdf[name] for name in ("n", "r", "p"))
        fine = all(type(value) is int and value > 0 for value in (n, r, p)) and n > 1 and n & (n - 1) == 0
        if not fine or 128 * n * r > _MOST_MEMORY_BYTES or n * r * p > _MOST_ROUNDS:
            raise TypeError
    elif type(kdf["c"]) is not int or not 0 < kdf["c"] <= _MOST_ROUNDS:
        raise TypeError
    if type(kdf["dklen"]) is not int or not 32 <= kdf["dklen"] <= 64:
        raise TypeError


def _load(path: Path, password: str) -> bytes:
    if not path.exists():
        raise KeyFileError(f"no key file {path}", help="make one: omnilytics init")
    refuse_open_to_others(path)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise TypeError
        stored = json.loads(path.read_text(encoding="utf-8"))
        if type(stored["version"]) is int and stored["version"] != _VERSION:
            raise KeyFileError(
                f"key file {path} is of version {stored['version']}; this program reads version {_VERSION}",
                help="upgrade the program, or restore the key file from a backup",
            )
        _check_cost(stored["crypto"]["kdfparams"])
        return bytes(Account.decrypt(stored, password))
    except (
        json.JSONDecodeError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        NotImplementedError,
        RecursionError,
        UnicodeDecodeError,
    ) as error:
        raise KeyFileError(f"{path} is not a key file", help="restore it from a backup") from error
    except OSError as error:
        raise KeyFileError(f"key file {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise KeyFileError("cannot decrypt key file: wrong password", help="check --password-file") from error


def refuse_open_to_others(path: Path) -> None:
    """Raises KeyFileError for a secret's file that others than its owner may touch, or that is not ours."""
    status = path.stat()
    mode = status.st_mode & 0o777
    if mode & 0o077:
        raise KeyFileError(f"key file {path} has mode {mode:04o}", help=f"run: chmod 600 {path}")
    if status.st_uid != os.getuid():
        raise KeyFileError(f"key file {path} belongs to another user", help="use your own key files")


def signer_of_text(text: str, signature: bytes) -> bytes:
    """The address (20 bytes) whose key made an EIP-191 signature of a text. Raises KeyFileError for what is none."""
    try:
        if len(signature) != 65:
            raise ValueError
        address: str = Account.recover_message(encode_defunct(text=text), signature=signature)
    # Which of them depends on what is wrong: the length, the recovery number, or the point.
    except (BadSignature, ValidationError, ValueError, TypeError) as error:
        raise KeyFileError("not a signature of an Ethereum account", help="make the request anew") from error
    return bytes.fromhex(address[2:])


def read_transaction(raw: bytes) -> dict[str, Any]:
    """The fields of a signed EIP-1559 transaction, as `Keys.sign` takes them."""
    fields = TypedTransaction.from_bytes(HexBytes(raw)).as_dict()
    names = ("type", "chainId", "data", "value", "nonce", "gas", "maxFeePerGas", "maxPriorityFeePerGas")
    return {"to": to_checksum_address(fields["to"]), **{name: fields[name] for name in names}}


def read_password(path: Path) -> str:
    """The password in a file, without the line's end. Raises KeyFileError."""
    if not path.exists():
        raise KeyFileError(f"no password file {path}", help="name it with --password-file; init writes HOME/password")
    refuse_open_to_others(path)
    try:
        # Bytes: reading as text would also take a lone carriage return for a line's end.
        return path.read_bytes().decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise KeyFileError(f"password file {path} cannot be read: {reason}") from error
