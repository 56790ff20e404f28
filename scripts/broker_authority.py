"""The small certificate authority of a broker: it certifies the broker, its participants and its bridges.

A folder holds it: ca.pem and ca-key.pem, server.pem and server-key.pem, crl.pem (who is refused again), admitted/ (what
was given to whom). Keys are P-256, in files of mode 0600. Certificates for clients are no good for servers and the
other way round, so no participant can pose as the broker.
"""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from omnilytics.daemon.broker_request import BrokerRequest, check_request, private_pem, write_file
from omnilytics.daemon.keystore import refuse_open_to_others
from omnilytics.peers.errors import ConfigurationError

CA_DAYS, SERVER_DAYS, CLIENT_DAYS = 3650, 365, 90
_PEM = serialization.Encoding.PEM
# Clocks of participants may be behind.
_EARLIER = timedelta(hours=1)


@dataclass(frozen=True)
class Authority:
    """An authority in a folder; `host` is the broker's name that requests must be for."""

    folder: Path
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    host: str

    @property
    def ca_path(self) -> Path:
        """The CA's certificate, for everybody."""
        return self.folder / "ca.pem"

    @property
    def crl_path(self) -> Path:
        """The list of revoked certificates, for the broker."""
        return self.folder / "crl.pem"

    @property
    def server_paths(self) -> tuple[Path, Path]:
        """The broker's certificate and key."""
        return self.folder / "server.pem", self.folder / "server-key.pem"

    def admission_path(self, name: str) -> Path:
        """What is given to a client: its certificate, then the CA's."""
        return self.folder / "admitted" / f"{name}.pem"

    def admit(self, request: BrokerRequest, now: datetime, days: int = CLIENT_DAYS) -> Path:
        """A certificate for an account that asked for it and proved that it is its own: the file for it.

        What the account was given before stays good until it expires or is revoked. Raises ConfigurationError.
        """
        public = check_request(request, self.host, now)
        return self._certify_client(request.address.hex(), public, now, days)

    def certify_bridge(self, name: str, now: datetime) -> tuple[Path, Path]:
        """A certificate and a key for another broker that bridges to this one. Raises ConfigurationError."""
        if not name.startswith("bridge-") or not name.removeprefix("bridge-").isalnum():
            raise ConfigurationError(f"'{name}' is no bridge's name", help="as bridge-berlin")
        key = ec.generate_private_key(ec.SECP256R1())
        path = self._certify_client(name, key.public_key(), now, SERVER_DAYS)
        write_file(path.with_name(f"{name}-key.pem"), private_pem(key), 0o600)
        return path, path.with_name(f"{name}-key.pem")

    def revoke(self, name: str, now: datetime) -> int:
        """Puts all certificates of a client on the list, which the broker must read anew: how many they are.

        Raises ConfigurationError for who was never admitted.
        """
        given = {int(line["serial"], 16) for line in self._given() if line["name"] == name}
        if not given:
            raise ConfigurationError(f"{name} was never admitted here", help=f"see {self._given_path}")
        known = list(x509.load_pem_x509_crl(self.crl_path.read_bytes()))
        for serial in sorted(given - {entry.serial_number for entry in known}):
            known.append(x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build())
        _write_crl(self.folder, self.certificate, self.key, known, now)
        return len(given)

    @property
    def _given_path(self) -> Path:
        return self.folder / "admitted" / "given.jsonl"

    def _given(self) -> list[dict[str, str]]:
        if not self._given_path.exists():
            return []
        return [json.loads(line) for line in self._given_path.read_text(encoding="utf-8").splitlines()]

    def _certify_client(self, name: str, public: ec.EllipticCurvePublicKey, now: datetime, days: int) -> Path:
        certificate = _sign(
            name, public, self.certificate, self.key, now, days, ExtendedKeyUsageOID.CLIENT_AUTH, alternatives=[]
        )
        path = self.admission_path(name)
        path.parent.mkdir(exist_ok=True)
        # Before the certificate is anybody's, so that none is given that cannot be revoked.
        line = {"name": name, "serial": f"{certificate.serial_number:x}", "given": now.isoformat(timespec="seconds")}
        with self._given_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        write_file(path, certificate.public_bytes(_PEM) + self.certificate.public_bytes(_PEM), 0o644)
        return path


def create_authority(folder: Path, hosts: list[str], now: datetime) -> Authority:
    """A new authority, with a certificate for a broker of these names and addresses; the first is the one by which
    participants know it. Raises ConfigurationError where there is one already."""
    if (folder / "ca-key.pem").exists():
        raise ConfigurationError(f"{folder} holds an authority already", help="use it, or another folder")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"OmniLytics broker {hosts[0]}")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(key, hashes.SHA256())
    )
    server_key = ec.generate_private_key(ec.SECP256R1())
    server = _sign(
        hosts[0],
        server_key.public_key(),
        certificate,
        key,
        now,
        SERVER_DAYS,
        ExtendedKeyUsageOID.SERVER_AUTH,
        [_alternative(host) for host in hosts],
    )
    write_file(folder / "ca.pem", certificate.public_bytes(_PEM), 0o644)
    write_file(folder / "server.pem", server.public_bytes(_PEM), 0o644)
    write_file(folder / "server-key.pem", private_pem(server_key), 0o600)
    write_file(folder / "host", f"{hosts[0]}\n".encode(), 0o644)
    _write_crl(folder, certificate, key, [], now)
    # Last: with it the authority is whole.
    write_file(folder / "ca-key.pem", private_pem(key), 0o600)
    return Authority(folder, certificate, key, hosts[0])


def open_authority(folder: Path) -> Authority:
    """An authority that was created before. Raises ConfigurationError or KeyFileError."""
    key_path = folder / "ca-key.pem"
    if not key_path.exists():
        raise ConfigurationError(f"no authority in {folder}", help="make one with: scripts/broker-admit prepare")
    refuse_open_to_others(key_path)
    try:
        key = serialization.load_pem_private_key(key_path.read_bytes(), None)
        certificate = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
        host = (folder / "host").read_text(encoding="utf-8").strip()
    except (ValueError, TypeError, OSError) as error:
        raise ConfigurationError(f"the authority in {folder} is damaged", help="restore it from a backup") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ConfigurationError(f"{key_path} is not the key of ca.pem beside it", help="restore it from a backup")
    return Authority(folder, certificate, key, host)


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _sign(
    name: str,
    public: ec.EllipticCurvePublicKey,
    issuer: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
    days: int,
    purpose: x509.ObjectIdentifier,
    alternatives: list[x509.GeneralName],
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    return builder.sign(key, hashes.SHA256())


def _write_crl(
    folder: Path,
    certificate: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    entries: list[x509.RevokedCertificate],
    now: datetime,
) -> None:
    builder = x509.CertificateRevocationListBuilder(
        # A list that has run out would shut everybody out; what is on it is kept until the CA itself has.
        certificate.subject,
        now.astimezone(UTC) - _EARLIER,
        certificate.not_valid_after_utc,
        revoked_certificates=entries,
    )
    write_file(folder / "crl.pem", builder.sign(key, hashes.SHA256()).public_bytes(_PEM), 0o644)
