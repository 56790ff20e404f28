"""A request for a broker's certificate: what it proves, what the operator refuses, what the participant installs."""

from __future__ import annotations

import json
import stat
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import mock

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from omnilytics.daemon.broker_access import BrokerAccess, read_access
from omnilytics.daemon.broker_request import BrokerRequest, check_request, install, make_request, read_request
from omnilytics.daemon.config import load_settings
from omnilytics.daemon.keystore import create_keys
from omnilytics.peers.errors import ConfigurationError, KeyFileError
from scripts.broker_admit_main import main
from scripts.broker_authority import Authority, create_authority, open_authority
from scripts.broker_rules import READ, WRITE, covers, may, mosquitto_acl
from tests.broker_identities import HOST, admitted, keys_named
from tests.test_cli import refused, run_here

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
ALICE, MALLORY = keys_named("alice"), keys_named("mallory")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return create_authority(tmp_path_factory.mktemp("authority"), [HOST], NOW)


@pytest.fixture
def request_of_alice(tmp_path: Path) -> BrokerRequest:
    return read_request(make_request(tmp_path, ALICE, HOST, NOW).read_text())


def csr_for(name: str, key: ec.EllipticCurvePrivateKey) -> str:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.PEM).decode()


# -------------------------------------------------------------------------- requests


def test_a_request_proves_whose_account_it_is(request_of_alice: BrokerRequest, tmp_path: Path) -> None:
    assert request_of_alice.address == ALICE.address
    assert "0x" + ALICE.address.hex() in request_of_alice.text()
    key = check_request(request_of_alice, HOST, NOW)
    assert key == request_of_alice.parsed().public_key()
    assert stat.S_IMODE((tmp_path / "broker" / "request-key.pem").stat().st_mode) == 0o600
    assert "PRIVATE" not in (tmp_path / "broker" / "request.json").read_text()


def test_nobody_asks_in_anothers_name(request_of_alice: BrokerRequest) -> None:
    """Mallory signs, or has the certificate request say Alice, or Alice's signature goes with a key of Mallory's."""
    key = ec.generate_private_key(ec.SECP256R1())
    own = replace(request_of_alice, csr=csr_for(ALICE.address.hex(), key))
    for forged in (
        replace(own, signature=MALLORY.sign_text(own.text())),
        own,
        replace(request_of_alice, signature=b""),
        replace(request_of_alice, signature=bytes(65)),
    ):
        with pytest.raises(ConfigurationError, match="not signed by the account"):
            check_request(forged, HOST, NOW)
    other = replace(request_of_alice, address=MALLORY.address)
    with pytest.raises(ConfigurationError, match="not in the name of"):
        check_request(replace(other, signature=MALLORY.sign_text(other.text())), HOST, NOW)


def test_a_certificate_request_must_be_signed_by_its_own_key(request_of_alice: BrokerRequest) -> None:
    """Or somebody could have a key of another certified, without holding it."""
    der = bytearray(request_of_alice.parsed().public_bytes(serialization.Encoding.DER))
    der[-3] ^= 1
    broken = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM).decode()
    forged = replace(request_of_alice, csr=broken)
    with pytest.raises(ConfigurationError, match="not signed by its own key"):
        check_request(replace(forged, signature=ALICE.sign_text(forged.text())), HOST, NOW)


@pytest.mark.parametrize("name", ["", "+", "#", "%u", "bridge-other", "x" * 40])
def test_no_name_but_the_accounts_is_certified(request_of_alice: BrokerRequest, name: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    forged = replace(request_of_alice, csr=csr_for(name or "0", key))
    with pytest.raises(ConfigurationError, match="not in the name of"):
        check_request(replace(forged, signature=ALICE.sign_text(forged.text())), HOST, NOW)


def test_a_request_is_for_one_broker_and_for_a_week(request_of_alice: BrokerRequest) -> None:
    with pytest.raises(ConfigurationError, match=r"for the broker 127\.0\.0\.1, this is elsewhere"):
        check_request(request_of_alice, "elsewhere", NOW)
    check_request(request_of_alice, HOST, NOW + timedelta(days=6))
    for now in (NOW + timedelta(days=8), NOW - timedelta(hours=1)):
        with pytest.raises(ConfigurationError, match="not of the last 7 days"):
            check_request(request_of_alice, HOST, now)
    younger = replace(request_of_alice, made=NOW + timedelta(days=7))
    with pytest.raises(ConfigurationError, match="not signed by the account"):
        check_request(younger, HOST, NOW + timedelta(days=7))


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[1]", "null", "x" * 20_000, "[" * 5000, '{"v": 1, "broker": 3}',
     '{"v": 1, "broker": "a\\nb", "address": "", "signature": "", "made": "", "csr": ""}'],
)  # fmt: skip
def test_what_is_no_request_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="no request"):
        read_request(text)


# ---------------------------------------------------------------------- certificates


def test_what_is_certified_is_a_client_and_nothing_else(authority: Authority, request_of_alice: BrokerRequest) -> None:
    certificate = x509.load_pem_x509_certificates(authority.admit(request_of_alice, NOW, 30).read_bytes())[0]
    assert [attribute.value for attribute in certificate.subject] == [ALICE.address.hex()]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH]
    assert certificate.not_valid_after_utc == NOW + timedelta(days=30)
    assert open_authority(authority.folder).host == HOST
    assert stat.S_IMODE((authority.folder / "ca-key.pem").stat().st_mode) == 0o600


def test_an_authority_is_made_once_and_kept_to_oneself(authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="holds an authority already"):
        create_authority(authority.folder, [HOST], NOW)
    with pytest.raises(ConfigurationError, match="no authority in"):
        open_authority(tmp_path)
    create_authority(tmp_path / "open", [HOST], NOW)
    (tmp_path / "open" / "ca-key.pem").chmod(0o644)
    with pytest.raises(KeyFileError, match="mode 0644"):
        open_authority(tmp_path / "open")
    with pytest.raises(ConfigurationError, match="never admitted"):
        authority.revoke("00" * 20, NOW)


def test_only_what_was_asked_for_is_installed(authority: Authority, tmp_path: Path) -> None:
    admission = authority.admit(read_request(make_request(tmp_path, ALICE, HOST, NOW).read_text()), NOW).read_bytes()
    first, ca = x509.load_pem_x509_certificates(admission)
    pem = serialization.Encoding.PEM
    # A second request: what was made for the first does not fit its key.
    path = make_request(tmp_path, ALICE, HOST, NOW)
    with pytest.raises(ConfigurationError, match="not for the key of the request"):
        install(tmp_path, admission, NOW)
    admission = authority.admit(read_request(path.read_text()), NOW).read_bytes()
    for rubbish in (b"", b"x", first.public_bytes(pem), admission + ca.public_bytes(pem)):
        with pytest.raises(ConfigurationError, match="does not hold a certificate and its CA's"):
            install(tmp_path, rubbish, NOW)
    stranger = create_authority(tmp_path / "stranger", [HOST], NOW)
    leaf = x509.load_pem_x509_certificates(admission)[0].public_bytes(pem)
    with pytest.raises(ConfigurationError, match="not signed by the CA"):
        install(tmp_path, leaf + stranger.certificate.public_bytes(pem), NOW)
    install(tmp_path, admission, NOW)
    assert {path.name for path in (tmp_path / "broker").iterdir()} == {"ca.pem", "certificate.pem", "key.pem"}
    with pytest.raises(ConfigurationError, match="no request in"):
        install(tmp_path, admission, NOW)


# ----------------------------------------------------------------- a participant's files


def test_files_that_others_may_touch_are_refused(authority: Authority, tmp_path: Path) -> None:
    access = admitted(authority, tmp_path, "alice", datetime.now(UTC)).access
    assert access.tls_context().check_hostname
    assert access.key is not None and access.ca is not None and access.certificate is not None
    for path, mode, error in (
        (access.key, 0o640, KeyFileError),
        (access.ca, 0o666, ConfigurationError),
        (access.certificate, 0o664, ConfigurationError),
    ):
        good = path.stat().st_mode
        path.chmod(mode)
        with pytest.raises(error, match=f"mode {mode:04o}"):
            access.tls_context()
        path.chmod(good)
    access.tls_context()


def test_files_that_do_not_fit_are_told_apart(authority: Authority, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    alice, bob = (admitted(authority, tmp_path, name, now).access for name in ("alice", "bob"))
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("no PEM")
    rubbish.chmod(0o600)
    for access, says in (
        (replace(alice, key=bob.key), "is not the key of"),
        (replace(alice, key=None), "no key for the client certificate"),
        (replace(alice, key=rubbish), "no key and certificate in PEM"),
        (replace(alice, certificate=rubbish), "holds no certificate in PEM"),
        (replace(alice, ca=rubbish), "holds no CA certificate"),
        (replace(alice, ca=tmp_path / "missing"), "cannot be read"),
    ):
        with pytest.raises(ConfigurationError, match=says):
            access.tls_context()


def test_settings_name_the_files_or_they_lie_where_install_puts_them(authority: Authority, tmp_path: Path) -> None:
    url = {"broker": "mqtts://h"}
    assert read_access(load_settings(tmp_path, url)) == BrokerAccess()
    alice = admitted(authority, tmp_path, "alice", datetime.now(UTC))
    assert read_access(load_settings(alice.home, url)) == alice.access
    (alice.home / "secret").write_text("hunter2\n")
    (alice.home / "secret").chmod(0o600)
    settings = load_settings(alice.home, url | {"broker_password_file": "secret"})
    assert read_access(settings).password() == "hunter2"
    with pytest.raises(ConfigurationError, match=r"no file .*elsewhere\.pem \(broker_ca\)"):
        read_access(load_settings(tmp_path, url | {"broker_ca": "elsewhere.pem"}))
    with pytest.raises(ConfigurationError, match="for TLS only"):
        read_access(load_settings(alice.home, {"broker": "mqtt://h", "broker_ca": "broker/ca.pem"}))


# ------------------------------------------------------------------------------- rules


def test_the_rules_cover_what_they_say_and_no_filter_beyond_it() -> None:
    me, other = "aa" * 20, "bb" * 20
    assert may(WRITE, me, f"omnilytics/r/1/2/in/{other}/{me}") and may(WRITE, me, f"omnilytics/r/presence/{me}")
    assert may(READ, me, f"omnilytics/r/+/+/in/{me}/+") and may(READ, me, "omnilytics/r/presence/+", run="r")
    for wanted in (
        f"omnilytics/r/1/2/in/{me}/{other}", f"omnilytics/r/presence/{other}", "#", "omnilytics/#",
        f"omnilytics/r/1/2/in/{other}/{me}/x", f"omnilytics/r/1/2/in//{me}", f"x/omnilytics/r/presence/{me}",
    ):  # fmt: skip
        assert not may(WRITE, me, wanted), wanted
    for wanted in (f"omnilytics/r/+/+/in/{other}/+", "omnilytics/r/+/+/in/+/+", f"omnilytics/r/+/+/in/{me}/#", "#"):
        assert not may(READ, me, wanted), wanted
    assert not may(READ, me, "omnilytics/+/presence/+", run="r")
    assert not covers("a/b", "a/+")
    assert "pattern write omnilytics/r/+/+/in/+/%u\n" in mosquitto_acl("r")


# ---------------------------------------------------------------------------- commands


def admit(*arguments: object) -> int:
    with mock.patch.object(sys, "argv", ["broker-admit", *map(str, arguments)]), pytest.raises(SystemExit) as leaving:
        main()
    assert isinstance(leaving.value.code, int)
    return leaving.value.code


def test_from_a_request_to_a_certificate_by_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home, folder = tmp_path / "alice", tmp_path / "authority"
    home.mkdir()
    (home / "password").write_text("x" * 32)
    (home / "password").chmod(0o400)
    address = create_keys(home / "keys", "x" * 32, light=True).address.hex()
    assert admit("prepare", "--folder", folder, "--host", "broker.example.org", "--bridge", "bridge-a") == 0
    text = (folder / "mosquitto.conf").read_text()
    assert "listener 8883\nallow_anonymous false\n" in text and "require_certificate true" in text
    assert "user bridge-a\ntopic readwrite omnilytics/+/#" in (folder / "mosquitto.acl").read_text()
    refused(2, "broker", "install", "--home", home, folder / "ca.pem", says="no request in", cure="broker request")
    code, out, _ = run_here("broker", "request", "--home", home, "--broker", "mqtts://broker.example.org")
    assert code == 0
    (tmp_path / "allowed").write_text("0x" + "11" * 20 + "\n")
    assert admit("sign", "--folder", folder, "--allow", tmp_path / "allowed", out.strip()) == 1
    assert admit("sign", "--folder", tmp_path / "nowhere", out.strip()) == 2
    assert "broker-admit prepare" in capsys.readouterr().err
    assert admit("sign", "--folder", folder, out.strip()) == 0
    admission = Path(capsys.readouterr().out.strip())
    assert admission.name == f"{address}.pem"
    code, out, _ = run_here("broker", "install", "--home", home, admission)
    assert code == 0 and "good until" in out
    assert read_access(load_settings(home, {"broker": "mqtts://broker.example.org"})).tls_context()
    assert admit("revoke", "--folder", folder, f"0x{address}") == 0
    assert json.loads(capsys.readouterr().out)["certificates"] == 1
    assert len(list(x509.load_pem_x509_crl((folder / "crl.pem").read_bytes()))) == 1
