"""Every reader of bytes that others may have made: mutated and hand-made inputs, each with an answer in words."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import random
import struct
import tempfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from omnilytics.daemon.broker import parse_broker_url
from omnilytics.daemon.cli import cli, main_with
from omnilytics.daemon.config import load_settings
from omnilytics.daemon.control.json_rpc import Method, RpcError, Whole, Word, find, read_request
from omnilytics.daemon.data_registry import read_registry
from omnilytics.daemon.keystore import load_keys, read_password
from omnilytics.daemon.redaction import secrets_in_config, shown_value
from omnilytics.daemon.spec import decode_spec
from omnilytics.daemon.training.data import read_csv, read_npz
from omnilytics.daemon.training.models import Architecture, Model
from omnilytics.daemon.training.optimisers import parse_optimiser
from omnilytics.daemon.training.payload import ModelPayload, decode_payload, encode_payload
from omnilytics.daemon.training.scaling import FeatureScaling
from omnilytics.peers.errors import OmniLyticsError, ParameterError
from omnilytics.peers.hashing import keccak
from omnilytics.peers.messages import decode_envelope, parse_topic
from scripts.launcher.follow import LogReader
from tests.fuzz.cast import SPEC

MOST_SECONDS = 5.0
# What a reader may need at most for a small input; a tenth of it is already much.
MOST_BYTES = 160 << 20
_MODEL = Model(Architecture((2,)), 2, 2)
_DEEP = 100_000


@dataclass
class ReaderTally:
    """What became of the inputs of one reader."""

    inputs: int = 0
    read: int = 0
    refused: int = 0
    slowest: float = 0.0
    most_bytes: int = 0


@dataclass(frozen=True)
class Reader:
    """How a reader is called, right inputs to spoil, words that its format knows, inputs made by hand."""

    read: Callable[[bytes, Path], object]
    samples: Sequence[bytes]
    words: Sequence[bytes] = ()
    hostile: Sequence[bytes] = field(default=(), repr=False)


# ------------------------------------------------------------------------ running


def read_mutated(
    reader: Reader, seed: int, index: int, tally: ReaderTally, show: Callable[[str], None] | None = None
) -> str | None:
    """Gives a reader one input; says what was wrong with what it did, if anything."""
    if index < len(reader.hostile):
        data = reader.hostile[index]
    else:
        data = mutated(random.Random(f"{seed}/{index}"), reader.samples, reader.words)
    if show is not None:
        show(f"{len(data)} bytes: {data[:600]!r}")
    return judge(reader, data, tally)


def judge(reader: Reader, data: bytes, tally: ReaderTally) -> str | None:
    """Whether a reader reads an input or refuses it in words, soon and with little memory."""
    tally.inputs += 1
    with tempfile.TemporaryDirectory(prefix="omnilytics-fuzz-") as folder:
        tracemalloc.start()
        started = time.process_time()
        problem = None
        try:
            reader.read(data, Path(folder))
            tally.read += 1
        except OmniLyticsError as error:
            tally.refused += 1
            if len(error.message) < 5 or not error.help or "Traceback" in error.message:
                problem = f"refused without words: {error.message!r}"
        except Exception as error:  # noqa: BLE001  (whatever comes out here is what the fuzzer looks for)
            problem = f"{type(error).__name__}: {error}"[:500]
        seconds = time.process_time() - started
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    tally.slowest = max(tally.slowest, seconds)
    tally.most_bytes = max(tally.most_bytes, used)
    if seconds > MOST_SECONDS:
        problem = problem or f"took {seconds:.1f} s for {len(data)} bytes"
    if used > MOST_BYTES:
        problem = problem or f"took {used / 2**20:.0f} MiB for {len(data)} bytes"
    return problem


def mutated(entropy: random.Random, samples: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """A sample with some things wrong."""
    data = bytearray(entropy.choice(samples))
    for _ in range(entropy.choice((1, 1, 2, 3, 8))):
        place = entropy.randrange(len(data) + 1)
        match entropy.randrange(8):
            case 0 if data:
                data[place % len(data)] ^= 1 << entropy.randrange(8)
            case 1 if data:
                data[place % len(data)] = entropy.choice((0, 1, 10, 34, 44, 127, 128, 255))
            case 2:
                del data[place : place + entropy.choice((1, 1, 4, 40))]
            case 3:
                data[place:place] = entropy.randbytes(entropy.choice((1, 2, 8, 60)))
            case 4:
                other = entropy.choice(samples)
                data[place:] = other[entropy.randrange(len(other) + 1) :]
            case 5:
                piece = data[place : place + entropy.choice((1, 4, 30))]
                data[place:place] = piece * entropy.choice((1, 2, 50))
            case 6:
                del data[place:]
            case _:
                word = entropy.choice((*words, b"-1", b"1e400", b"NaN", b"9" * 5000, b"\0", b"null", b"\xff\xfe"))
                length = entropy.choice((0, 1, 1, 3, 10))
                data[place : place + length] = word
    return bytes(data[:200_000])


def _file(name: str, read: Callable[[Path], object]) -> Callable[[bytes, Path], object]:
    def reading(data: bytes, folder: Path) -> object:
        path = folder / name
        path.write_bytes(data)
        path.chmod(0o600)
        return read(path)

    return reading


# ------------------------------------------------------------------- bytes of peers


def _payload() -> bytes:
    weights = np.linspace(-1.0, 1.0, _MODEL.value_count)
    return encode_payload(ModelPayload.of(_MODEL, weights, FeatureScaling(np.zeros(2), np.ones(2)), 3))


def _payload_with(header: bytes, length: int | None = None) -> bytes:
    return struct.pack(">4sBI", b"OLMP", 1, len(header) if length is None else length) + header + _payload()[-72:]


def _spec(**changes: object) -> bytes:
    return json.dumps(json.loads(SPEC.encode()) | changes).encode()


def _topic_text(data: bytes, _: Path) -> object:
    return parse_topic(data.decode("utf-8", errors="surrogateescape"))


_TOPIC = f"omnilytics/{'0' * 16}/1/2/in/{'ab' * 20}/{'cd' * 20}".encode()
_DEEP_JSON = b"[" * _DEEP + b"]" * _DEEP

# ---------------------------------------------------------------------- own files

_TOML = b"""chain = "http://127.0.0.1:8545"
market = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
broker = "mqtt://user:word@127.0.0.1:1883"
chain_id = 31337
finality_depth = 2
poll_seconds = 0.5
verbose = true
[data.rows]
file = "rows.csv"
label = "y"
"""


def _settings(path: Path) -> object:
    settings = load_settings(path.parent, {})
    # Used at once by every command that reads settings.
    _ = settings.market_address if settings.market else b""
    parse_broker_url(settings.broker)
    read_registry(settings.table("data"), settings.home)
    # What config show and bundle make of it.
    json.dumps([shown_value(name, table) for name, table in settings.tables.items()], default=str)
    secrets_in_config(path.read_text(encoding="utf-8"))
    for value in (settings.poll_seconds, settings.patience_seconds, settings.resend_seconds):
        float(value)
    return settings


def _npz(**arrays: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stub takes a keyword for a flag
    return file.getvalue()


def _npy_header(descr: str, shape: str, version: int = 1) -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    length = struct.pack("<H" if version == 1 else "<I", len(header) + 1)
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + b"\n"


def _zip(compression: int = zipfile.ZIP_DEFLATED, **members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return file.getvalue()


@cache
def _npz_bombs() -> list[bytes]:
    y = _npy_header("'<i8'", "(3,)") + bytes(24)
    x = _npy_header("'<f8'", "(3, 2)") + bytes(48)
    whole = _zip(zipfile.ZIP_STORED, X=x, y=y)
    encrypted = bytearray(whole)
    for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        encrypted[whole.index(mark) + offset] |= 1
    method = whole.replace(b"PK\1\2\x14\3\x14\0\0\0\0\0", b"PK\1\2\x14\3\x14\0\0\0\x63\0")
    lying = bytearray(whole)
    central = whole.index(b"PK\1\2")
    lying[central + 20 : central + 28] = struct.pack("<II", 2**32 - 2, 2**32 - 2)
    return [
        _zip(X=_npy_header("'<f8'", "(30000000, 10)") + bytes(48), y=y),
        _zip(X=_npy_header("'<f8'", "(99999999999, 99999999)"), y=y),
        _zip(X=_npy_header("'<f8'", "(9" + "9" * 400 + ", 1)"), y=y),
        _zip(X=_npy_header("'<f8'", "(-3, -2)") + bytes(48), y=y),
        _zip(X=_npy_header("'<f8'", "(1000000000, 0)"), y=_npy_header("'<U0'", "(1000000000,)")),
        _zip(X=_npy_header("'<f8'", "(50000000, 1)") + bytes(400_000_000), y=y),
        _zip(X=x, y=_npy_header("'<U100000000'", "(3,)")),
        _zip(X=x, y=_npy_header("'<U30000000'", "(3,)") + bytes(360_000_000)),
        _zip(X=_npy_header("[" * 4000 + "]" * 4000, "(3, 2)"), y=y),
        _zip(X=_npy_header("'<f8'", "(" * 90 + "3" + ")" * 90), y=y),
        _zip(X=_npy_header("[('a', '<f8'), ('b', 'O')]", "(3, 2)") + bytes(96), y=y),
        _zip(X=b"\x93NUMPY\2\0" + struct.pack("<I", 2**32 - 1), y=y),
        _zip(X=b"\x93NUMPY\3\0" + struct.pack("<I", 60_000_000) + bytes(60_000_000), y=y),
        _zip(X=_npy_header("'<f8'", "(3, 2)", 9) + bytes(48), y=y),
        _zip(X=b"no array", y=b""),
        _zip(X=_npy_header("'|S5'", "(3, 2)") + bytes(30), y=y),
        _zip(X=_npy_header("'<c16'", "(3, 2)") + bytes(96), y=y),
        _zip(X=_npy_header("'<M8[ns]'", "(3, 2)") + bytes(48), y=y),
        _zip(X=_npy_header("'<f8'", "()") + bytes(8), y=_npy_header("'<f8'", "()") + bytes(8)),
        _npz(X=np.array([[1, None]], dtype=object), y=np.zeros(1)),
        _npz(X=np.full((2, 2), np.longdouble("1e4000")), y=np.array([1.5, 2.5], dtype=np.longdouble)),
        _npz(X=np.zeros((2, 2)), y=np.array([1e308, -1e308])),
        _npz(X=np.zeros((2, 2)), y=np.array(["9" * 5000, "1"])),
        _npz(X=np.zeros((2, 2)), y=np.array(["\ud800"[:0], "1"])),
        x,
        y,
        bytes(encrypted),
        method,
        bytes(lying),
        whole[: len(whole) // 2],
        b"PK\5\6" + bytes(18),
        b"\x80\x04K\x01.",
        b"",
    ]


def _csv_hostile() -> list[bytes]:
    wide = b",".join(b"c%d" % number for number in range(20_000))
    return [
        b"," * 100_000 + b"label\n",
        wide + b",label\n" + b"1," * 20_000 + b"x\n",
        b"a,label\n1," + b"9" * 5000 + b"\n2,1\n",
        b"a,label\n1,-" + b"9" * 400 + b"\n2,1\n",
        b"a,label\n" + b"1" * 200_000 + b",x\n",
        b"a,label\n1," + b"x" * 200_000 + b"\n",
        b"a,label\n1_0,x\n",
        b"a,label\ninf,x\n",
        b'a,label\n"1,x\n',
        b'"' * 100_001,
        b"a,label\n\0,x\n",
        b"\xff\xfea\0,\0",
        "a,label\n１,x\n".encode(),
        b"a,label\r1,x\r2,y",
        b"\n" * 100_000,
        b"label\nx\n",
        b"",
    ]


@cache
def _key_file(secret: bytes = b"\x11" * 32, password: bytes = b"word", rounds: int = 16) -> bytes:
    """A keystore v3 file that costs nothing to open; made here so that every run has the same."""
    salt, iv = b"\x22" * 32, b"\x33" * 16
    derived = hashlib.scrypt(password, salt=salt, n=rounds, r=1, p=1, dklen=32)
    encryptor = Cipher(algorithms.AES(derived[:16]), modes.CTR(iv)).encryptor()
    ciphertext = encryptor.update(secret) + encryptor.finalize()
    crypto = {
        "cipher": "aes-128-ctr",
        "cipherparams": {"iv": iv.hex()},
        "ciphertext": ciphertext.hex(),
        "kdf": "scrypt",
        "kdfparams": {"dklen": 32, "n": rounds, "r": 1, "p": 1, "salt": salt.hex()},
        "mac": keccak(derived[16:32], ciphertext).hex(),
    }
    return json.dumps({"address": "00" * 20, "crypto": crypto, "id": "0" * 8, "version": 3}).encode()


def _key_with(*path: str, value: object) -> bytes:
    stored = json.loads(_key_file())
    place = stored
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return json.dumps(stored).encode()


def _read_keys(data: bytes, folder: Path) -> object:
    for name, content in (("account.json", data), ("box.json", _key_file(b"\x44" * 32))):
        path = folder / name
        path.write_bytes(content)
        path.chmod(0o600)
    return load_keys(folder, "word")


def _read_log(path: Path) -> object:
    reader = LogReader("owner", path)
    records = list(reader.new_records())
    for record in records:
        # What every reader of records does first.
        assert isinstance(record["event"], str)
    lines = path.read_bytes()
    whole = lines[: lines.rfind(b"\n") + 1]
    if len(records) + reader.bad_lines != len(whole.splitlines()):
        raise AssertionError("a line is neither read nor counted as bad")
    return records


_LOG = b'{"v":1,"ts":"2026-01-01T00:00:00.000+00:00","seq":1,"event":"heartbeat","level":"info","msg":"alive"}\n'

# ------------------------------------------------------------------- command line

_COMMANDS = {
    "model": (b"model run", b"--test own.csv --label y"),
    "owner": (b"owner run", b"--data own.csv --label y"),
}
_OPTIONS = (
    "--rounds", "--groups", "--group-size", "--faulty", "--lane-bits", "--rate", "--batch-size", "--optimiser",
    "--clip", "--depth", "--block-seconds", "--join-seconds", "--open-seconds", "--phase-seconds", "--turn-seconds",
    "--settle-price-cap", "--seed", "--task", "--model", "--label", "--chain", "--chain-id", "--market", "--broker",
    "--finality-depth", "--gas-price-cap", "--gas-tip", "--poll-seconds", "--patience-seconds", "--password-file",
    "--home", "--max-stake", "--withdraw-to", "--data", "--test", "--strict", "--verbose", "--no-such-option",
)  # fmt: skip
_VALUES = (
    "0", "-1", "1", "3", "1e400", "nan", "inf", "-inf", "9" * 30, "9" * 5000, "", " ", "x",
    "\udcff", "0x", "0x" + "ab" * 20,
    "mlp:", "mlp:0", "mlp:64,32", "mlp:999999999", "sgd:nan", "sgd:1e400", "momentum:1,1", "momentum:0.1,0.5,3",
    "mqtt://", "mqtt://h:99999", "mqtt://[::1", "mqtt://h:x", "http://h", "own.csv", "own.npz", ".", "nothing.csv",
    "16",    "a/b", "\x1b[2J", "y", "../..", "/dev/null/x", "n" * 300,
)  # fmt: skip


def _arguments(entropy: random.Random) -> bytes:
    base = entropy.choice([f"{command.decode()} {more.decode()}" for command, more in _COMMANDS.values()]).split()
    for _ in range(entropy.choice((1, 1, 2, 3))):
        base.append(entropy.choice(_OPTIONS))
        if entropy.random() < 0.95:
            base.append(entropy.choice(_VALUES))
    return "\0".join(base).encode("utf-8", errors="surrogateescape")


def _command_line(data: bytes, folder: Path) -> object:
    """Everything that is checked before keys are opened: there are none, so that no daemon ever starts."""
    rows = "a,b,y\n" + "".join(f"{number},{number * number % 7},{number % 2}\n" for number in range(12))
    (folder / "own.csv").write_text(rows)
    (folder / "own.npz").write_bytes(_npz(X=np.arange(12.0).reshape(6, 2), y=np.array([0, 1] * 3)))
    arguments = []
    for word in data.decode("utf-8", errors="surrogateescape").split("\0"):
        arguments.append(str(folder / word) if word in ("own.csv", "own.npz") else word)
    arguments += ["--market", "0x" + "ab" * 20] if "--market" not in arguments else []
    arguments += ["--home", str(folder / "home")] if "--home" not in arguments else []
    said = io.StringIO()
    with _in(folder), contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            main_with(_With(arguments))  # type: ignore[arg-type]  # all that is asked of a command is to be called
        except SystemExit as leaving:
            if leaving.code == 0 or leaving.code not in range(10) or len(said.getvalue()) < 10:
                raise AssertionError(f"exit code {leaving.code}, words {said.getvalue()!r}") from None
            return None
    raise AssertionError("a daemon without keys ran")


class _in:
    """The current folder, for a while: values are paths, too."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        import os

        self._before = Path.cwd()
        os.chdir(self._folder)

    def __exit__(self, *_: object) -> None:
        import os

        os.chdir(self._before)


@dataclass(frozen=True)
class _With:
    """The command line with its arguments, as the shell would give them."""

    arguments: list[str]

    def __call__(self, standalone_mode: bool) -> object:
        return cli(self.arguments, standalone_mode=standalone_mode)


@cache
def _command_lines() -> list[bytes]:
    """Each option with each value, for the command that knows it, and some at random."""
    entropy = random.Random("command lines")
    single = [
        "\0".join([*f"{command.decode()} {more.decode()}".split(), option, value]).encode(
            "utf-8", errors="surrogateescape"
        )
        for command, more in _COMMANDS.values()
        for option in _OPTIONS
        for value in _VALUES
    ]
    entropy.shuffle(single)
    return single


async def _nothing() -> None:
    """What a method of the fuzzer does."""


def _control_request(data: bytes, _: Path) -> None:
    try:
        find(_METHODS, read_request(data))
    except RpcError as error:
        # Its words are all that an asker gets.
        raise ParameterError(error.message) from error


_METHODS = {
    "accept": Method(_nothing, {"task": Whole(1, 2**63 - 1)}, ("task",)),
    "logs": Method(_nothing, {"cursor": Word(most=64), "limit": Whole(1, 500), "level": Word(("debug", "info"))}),
}
_ASKED = b'{"jsonrpc":"2.0","id":1,"method":"logs","params":{"cursor":"a:1","limit":9,"level":"info"}}'
READERS: dict[str, Reader] = {
    "control request": Reader(
        _control_request,
        [_ASKED, b'{"jsonrpc":"2.0","id":"x","method":"accept","params":{"task":3}}'],
        [b'"id"', b"null", b"true", b"[", b"{", b"9" * 400, b'"method"', b'"task"', b"NaN"],
        [b"", b"[" * 8_000, b'{"id":' * 1_000, b"[" + _ASKED + b"]", b"9" * 8_000, _ASKED * 100],
    ),
    "envelope": Reader(
        lambda data, _: decode_envelope(data),
        [b"\1\0" + bytes(160), b"\1\1" + bytes(114), bytes(512)],
        hostile=[b"", b"\1", bytes(513), b"\1\2" + bytes(200), bytes(1_000_000)],
    ),
    "topic": Reader(
        _topic_text,
        [_TOPIC, _TOPIC.replace(b"/1/2/", b"/" + b"9" * 78 + b"/0/")],
        [b"/", b"in", "٣".encode(), b"+", b"#"],
        [_TOPIC + b"\n", _TOPIC * 500, b"9" * 65_000, _TOPIC.replace(b"/1/", b"/" + b"9" * 60_000 + b"/")],
    ),
    "payload": Reader(
        lambda data, _: decode_payload(data, _MODEL, 3),
        [_payload()],
        [b"OLMP", b'"round":', b"mlp:2", b"softmax", b"true", b"1.0"],
        [
            _payload_with(b"[" * 1000),
            _payload_with(b"{}", 2**32 - 1),
            _payload_with(b'{"a":' * 200 + b"1" + b"}" * 200),
            _payload_with(b'{"architecture":"mlp:65536,65536","class_count":2,"feature_count":2,"round":3}'),
            _payload_with(b'{"architecture":"softmax","class_count":%s,"feature_count":2,"round":3}' % (b"9" * 900)),
        ],
    ),
    "task description": Reader(
        lambda data, _: decode_spec(data),
        [SPEC.encode(), _spec(architecture="mlp:4,3")],
        [b'"clip"', b"[", b"]", b"{", b"}", b'"classes"', b"true", b"1" + b"0" * 400],
        [
            _DEEP_JSON[:19_000],
            b"[" * 9_000,
            _spec(clip=10**400),
            _spec(clip=10**4299),
            _spec(clip=True),
            _spec(batch_size=10**300),
            _spec(feature_count=10**300),
            _spec(classes="ab"),
            _spec(classes=[["a"], {}]),
            _spec(classes={"a": 1}),
            _spec(classes=["\ud800", "\x1b[2J"]),
            _spec(protection=[]),
            _spec(version=1.0),
            _spec(architecture=5),
            _spec(architecture="mlp:" + "9" * 18_000),
            b"null",
            b"5",
            b"[]",
            b'"text"',
            b"\xff" * 100,
            b"1" * 6_000,
            bytes(1_000_000),
        ],
    ),
    "config.toml": Reader(
        _file("config.toml", _settings),
        [_TOML],
        [
            b"nan",
            b"inf",
            b"-inf",
            b"[",
            b"]",
            b"{",
            b"}",
            b"\n[table]\n",
            b"1979-05-27",
            b"mqtt://[",
            b":99999",
            b"'''",
        ],
        [
            b"a = " + b"[" * 50_000,
            b"a = " + b"{a=" * 5_000,
            b"a" + b".a" * 20_000 + b" = 1",
            b"[" + b"a." * 20_000 + b"a]\n",
            b"policy" + b".a" * 8_000 + b" = 1",
            b"[data.a]\nfile" + b".a" * 8_000 + b" = 1",
            b'[data.a]\nfile = "\\u0000"\n',
            b"chain_id = " + b"9" * 5_000,
            b"poll_seconds = " + b"9" * 400,
            b"poll_seconds = nan",
            b"poll_seconds = inf",
            b"poll_seconds = 0x" + b"f" * 5_000,
            b"verbose = 1",
            b"chain_id = true",
            b'broker = "mqtt://[::1"',
            b'broker = "mqtt://host:99999"',
            b'broker = "mqtt://host:port"',
            b'broker = "mqtt://h\\u0000st"',
            b'market = "0x\xd9\xa3"',
            b'home = "x"',
            b'"" = 1',
            b"finality_depth = " + b"9" * 4_000,
            b"min_gruop = 1",
            b"gas_tip = 1979-05-27T07:32:00Z",
            b"\xef\xbb\xbfchain_id = 1",
            b"\0",
        ],
    ),
    "csv": Reader(
        _file("rows.csv", lambda path: read_csv(path, "label")),
        [b"a,b,label\n1,2,x\n3,4.5,y\n-1e3,0,x\n", b'"a","label"\r\n1,"7"\r\n2,"8.0"\r\n'],
        [b",", b'"', b"\r", b"label", b"nan", b"1_0", b"\xef\xbb\xbf"],
        _csv_hostile(),
    ),
    "npz": Reader(
        _file("rows.npz", read_npz),
        [
            _npz(X=np.arange(6.0).reshape(3, 2), y=np.array([0, 1, 1])),
            _npz(X=np.arange(6).reshape(3, 2).astype(np.int8), y=np.array(["a", "b", "b"])),
            _zip(X=_npy_header("'<f8'", "(3, 2)") + bytes(48), y=_npy_header("'<i8'", "(3,)") + bytes(24)),
        ],
        [b"PK\1\2", b"PK\3\4", b"PK\5\6", b"'<f8'", b"'O'", b"(99999999, 9)", b"\x93NUMPY"],
        _npz_bombs(),
    ),
    "key file": Reader(
        _read_keys,
        [_key_file()],
        [b'"n"', b"65536", b'"pbkdf2"', b'"scrypt"', b"{", b"[", b"0x", b'"version"'],
        [
            _DEEP_JSON,
            b"null",
            b"[]",
            b"5",
            b'"text"',
            b"",
            _key_with("version", value=4),
            _key_with("version", value=[3]),
            _key_with("crypto", value=[]),
            _key_with("crypto", "kdf", value="bcrypt"),
            _key_with("crypto", "kdf", value=None),
            _key_with("crypto", "cipher", value="rot13"),
            _key_with("crypto", "kdfparams", "n", value=2**40),
            _key_with("crypto", "kdfparams", "n", value=2**22),
            _key_with("crypto", "kdfparams", "r", value=2**29),
            _key_with("crypto", "kdfparams", "p", value=2**30),
            _key_with("crypto", "kdfparams", "n", value=15),
            _key_with("crypto", "kdfparams", "n", value=-16),
            _key_with("crypto", "kdfparams", "n", value=10**400),
            _key_with("crypto", "kdfparams", "n", value="16"),
            _key_with("crypto", "kdfparams", "n", value=16.5),
            _key_with("crypto", "kdfparams", "dklen", value=10**9),
            _key_with("crypto", "kdfparams", "dklen", value=1),
            _key_with("crypto", "kdfparams", "salt", value="zz"),
            _key_with("crypto", "cipherparams", "iv", value="00"),
            _key_with("crypto", "ciphertext", value=""),
            _key_with("crypto", "mac", value=7),
            _key_file(b"\0" * 32),
            _key_file(b"\xff" * 32),
            _key_file(b"\x11" * 31),
            _key_file(b""),
            json.dumps(
                json.loads(_key_file())["crypto"] | {"kdf": "pbkdf2", "kdfparams": {"c": 10**9, "dklen": 32}}
            ).encode(),
            _key_with("crypto", "kdf", value="pbkdf2"),
        ],
    ),
    "password file": Reader(
        _file("password", read_password),
        [b"word\n", "wörd".encode()],
        hostile=[b"", b"\xff\xfe", b"\0", b"\n" * 1000],
    ),
    "log": Reader(
        _file("log.jsonl", _read_log),
        [_LOG * 3, _LOG + b"half a line"],
        [b"\n", b"{", b"[", b"]", b'"event"', b"\r", b"\x0b", "\u2028".encode()],
        [
            _DEEP_JSON + b"\n",
            b'{"event":' * 50_000 + b"\n",
            b"5\n",
            b"null\n[]\n",
            b'{"event":5}\n',
            b"{}\n",
            b"9" * 5_000 + b"\n",
            b"\xff\n",
            b"\r\r\n\n",
            b"",
        ],
    ),
    "command line": Reader(_command_line, [*_command_lines()[:200]], hostile=_command_lines()),
    "broker address": Reader(
        lambda data, _: parse_broker_url(data.decode("utf-8", errors="surrogateescape")),
        [b"mqtt://user:word@host:1883", b"mqtts://[::1]:8883"],
        [b"[", b"]", b":", b"@", b"/", b"%", "℀".encode()],
        [b"mqtt://[", b"mqtt://h:99999", b"mqtt://h:x", b"mqtt://h:-1", b"mqtt://[v1.x]", "mqtt://℀".encode()],
    ),
    "optimiser": Reader(
        lambda data, _: parse_optimiser(data.decode("utf-8", errors="surrogateescape")),
        [b"momentum:0.5,0.9", b"sgd:0.1"],
        [b":", b",", b"inf", b"_"],
    ),
}
