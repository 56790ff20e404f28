"""Asking a broker's operator for a client certificate, with proof that the account in it is one's own.

The proof is two signatures: a certificate request (PKCS #10) names the account and is signed by the new TLS key; the
account's own key signs (EIP-191) a text with the request's hash, the broker's name and the time. The first ties the
account to the TLS key, the second the TLS key to the account. A request that others replay brings a certificate for a
key that only its maker has.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from omnilytics.daemon.broker_access import BROKER_FOLDER, CA_FILE, CERTIFICATE_FILE, KEY_FILE
from omnilytics.daemon.keystore import Keys, refuse_open_to_others, signer_of_text
from omnilytics.peers.errors import ConfigurationError, KeyFileError

REQUEST_FILE, NEW_KEY_FILE = "request.json", "request-key.pem"
# A stolen request must not be good for ever, and clocks differ.
MOST_AGE = timedelta(days=7)
CLOCK_SKEW = timedelta(minutes=10)
_MOST_BYTES = 16_384
_HOST = re.compile(r"[0-9A-Za-z.:_-]{1,253}")


@dataclass(frozen=True)
class BrokerRequest:
    """A request for a client certificate: the account (20 bytes), the broker's host name, when it was made, the
    certificate request in PEM, and the account's signature of `text` (65 bytes)."""

    address: bytes
    broker: str
    made: datetime
    csr: str
    signature: bytes = b""

    def text(self) -> str:
        """What the account signs; people may read it, so that a wallet can show it."""
        digest = hashlib.sha256(self.parsed().public_bytes(serialization.Encoding.DER)).hexdigest()
        return (
            "OmniLytics: I ask for a client certificate for my account\n"
            f"broker: {self.broker}\n"
            f"account: 0x{self.address.hex()}\n"
            f"request: sha256 {digest}\n"
            f"made: {self.made.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
        )

    def parsed(self) -> x509.CertificateSigningRequest:
        """The certificate request. Raises ConfigurationError."""
        try:
            return x509.load_pem_x509_csr(self.csr.encode())
        except ValueError as error:
            raise ConfigurationError("the request holds no certificate request in PEM") from error

    def to_json(self) -> str:
        """The file that goes to the operator. It holds no secret."""
        fields = {
            "v": 1,
            "address": "0x" + self.address.hex(),
            "broker": self.broker,
            "made": f"{self.made.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "csr": self.csr,
            "signature": "0x" + self.signature.hex(),
        }
        return json.dumps(fields, indent=2) + "\n"


def make_request(home: Path, keys: Keys, broker: str, now: datetime) -> Path:
    """Makes a TLS key and the request for it in HOME/broker: the request's path.

    The key in use stays where it is until `install`. `broker` is its host name. Raises OSError.
    """
    folder = home / BROKER_FOLDER
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, keys.address.hex())])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    pem = csr.public_bytes(serialization.Encoding.PEM).decode()
    unsigned = BrokerRequest(keys.address, broker, now.replace(microsecond=0), pem)
    signed = BrokerRequest(keys.address, broker, unsigned.made, pem, keys.sign_text(unsigned.text()))
    write_file(folder / NEW_KEY_FILE, private_pem(key), 0o600)
    write_file(folder / REQUEST_FILE, signed.to_json().encode(), 0o644)
    return folder / REQUEST_FILE


def read_request(text: str) -> BrokerRequest:
    """A request as it stands in a file; nothing in it is believed yet. Raises ConfigurationError."""
    try:
        if len(text) > _MOST_BYTES:
            raise ValueError
        said = json.loads(text)
        if said["v"] != 1 or not _HOST.fullmatch(said["broker"]):
            raise ValueError
        address, signature = (bytes.fromhex(said[name].removeprefix("0x")) for name in ("address", "signature"))
        made = datetime.strptime(said["made"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        csr = said["csr"]
        if len(address) != 20 or not isinstance(csr, str):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigurationError(
            "this is no request for a client certificate", help="make one with: omnilytics broker request"
        ) from error
    return BrokerRequest(address, said["broker"], made, csr, signature)


def check_request(request: BrokerRequest, broker: str, now: datetime) -> ec.EllipticCurvePublicKey:
    """The TLS key to be certified for `request.address`.

    Raises ConfigurationError where the request is for another broker, too old, or not of that account.
    """
    who = "0x" + request.address.hex()
    if request.broker != broker:
        raise ConfigurationError(
            f"the request of {who} is for the broker {request.broker}, this is {broker}",
            help="make a request for this broker's host name",
        )
    if not now - MOST_AGE <= request.made <= now + CLOCK_SKEW:
        raise ConfigurationError(
            f"the request of {who} was made on {request.made:%Y-%m-%d %H:%M} UTC, which is not of the last 7 days",
            help="make a new one: omnilytics broker request",
        )
    csr = request.parsed()
    names = [attribute.value for attribute in csr.subject]
    if names != [request.address.hex()] or csr.subject.get_attributes_for_oid(NameOID.COMMON_NAME) == []:
        raise ConfigurationError(f"the certificate request is not in the name of {who} alone")
    key = csr.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigurationError("the request's key is no P-256 key", help="make it with: omnilytics broker request")
    try:
        valid = csr.is_signature_valid
    except (ValueError, InvalidSignature):
        valid = False
    if not valid:
        raise ConfigurationError(f"the certificate request of {who} is not signed by its own key")
    try:
        signer = signer_of_text(request.text(), request.signature)
    except KeyFileError:
        signer = b""
    if signer != request.address:
        raise ConfigurationError(
            f"the request is not signed by the account {who}", help="only the account's owner can ask for it"
        )
    return key


def install(home: Path, admission: bytes, now: datetime) -> x509.Certificate:
    """Puts what the operator sent, the certificate followed by its CA's, where the daemon finds it.

    Raises ConfigurationError for a certificate that is not the one asked for, KeyFileError for an exposed key.
    """
    folder = home / BROKER_FOLDER
    asked, key_path = folder / REQUEST_FILE, folder / NEW_KEY_FILE
    if not asked.exists() or not key_path.exists():
        raise ConfigurationError(f"no request in {folder}", help="make one first: omnilytics broker request")
    request = read_request(asked.read_text(encoding="utf-8"))
    refuse_open_to_others(key_path)
    try:
        certificate, *authorities = x509.load_pem_x509_certificates(admission)
        (authority,) = authorities
    except ValueError as error:
        raise ConfigurationError(
            "the file does not hold a certificate and its CA's, in PEM", help="take the file that broker-admit wrote"
        ) from error
    if certificate.public_key() != request.parsed().public_key():
        raise ConfigurationError("the certificate is not for the key of the request", help="was it for an older one?")
    if [attribute.value for attribute in certificate.subject] != [request.address.hex()]:
        raise ConfigurationError(f"the certificate does not bear the address 0x{request.address.hex()} alone")
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise ConfigurationError("the certificate is not signed by the CA that comes with it") from error
    if certificate.not_valid_after_utc <= now:
        raise ConfigurationError(f"the certificate expired on {certificate.not_valid_after_utc:%Y-%m-%d}")
    pem = serialization.Encoding.PEM
    write_file(folder / CA_FILE, authority.public_bytes(pem), 0o644)
    write_file(folder / CERTIFICATE_FILE, certificate.public_bytes(pem), 0o644)
    key_path.replace(folder / KEY_FILE)
    asked.unlink()
    return certificate


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A key as it lies in its file, which nobody else may read: without a passphrase, as daemons start alone."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def write_file(path: Path, content: bytes, mode: int) -> None:
    """Writes a file of this mode in one step: a reader sees all of it or none."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
    fresh.replace(path)
