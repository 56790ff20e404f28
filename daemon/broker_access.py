"""How a participant proves itself to a broker, and the broker to it: TLS settings, credentials, and what went wrong.

The server's name is always checked; there is no option that leaves it out. Files are read anew for each connection, so
that a renewed certificate needs no restart.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from omnilytics.daemon.config import Settings
from omnilytics.peers.errors import BrokerError, ConfigurationError

# Where `omnilytics broker install` puts what a broker's operator sends, in the folder of a participant.
BROKER_FOLDER = "broker"
CA_FILE, CERTIFICATE_FILE, KEY_FILE = "ca.pem", "certificate.pem", "key.pem"
# PEM files of a chain have some thousands of bytes.
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class BrokerAccess:
    """The files that stand behind a broker's address; None where there is none.

    ca: who may vouch for the broker (None: the system's own). certificate and key: the client's own. password_file: for
    brokers that know their clients by passwords.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    password_file: Path | None = None

    def password(self) -> str | None:
        """What stands in the password file, if there is one. Raises KeyFileError."""
        if self.password_file is None:
            return None
        # Imported only where there is a secret to read: it takes a second.
        from omnilytics.daemon.keystore import read_password

        return read_password(self.password_file)

    def tls_context(self) -> ssl.SSLContext:
        """TLS 1.2 or later, with the broker's certificate and name checked.

        Raises ConfigurationError or KeyFileError for files that are missing, damaged, expired or open to others.
        """
        for path in (self.ca, self.certificate):
            if path is not None:
                _refuse_writable_by_others(path)
        try:
            context = ssl.create_default_context(cafile=None if self.ca is None else str(self.ca))
        except (ssl.SSLError, OSError) as error:
            raise ConfigurationError(
                f"{self.ca} holds no CA certificate in PEM", help="ask the broker's operator for its CA certificate"
            ) from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.certificate is None:
            return context
        if self.key is None or not self.key.exists():
            raise ConfigurationError(
                f"no key for the client certificate {self.certificate}",
                help="set broker_key, or make both with: omnilytics broker request",
            )
        from omnilytics.daemon.keystore import refuse_open_to_others

        refuse_open_to_others(self.key)
        _refuse_expired(self.certificate)
        try:
            context.load_cert_chain(self.certificate, self.key, password=_no_passphrase)
        except ssl.SSLError as error:
            wrong_pair = "MISMATCH" in (error.reason or "")
            what = f"{self.key} is not the key of" if wrong_pair else "no key and certificate in PEM:"
            raise ConfigurationError(
                f"{what} {self.certificate}", help="make a new request with: omnilytics broker request"
            ) from error
        except OSError as error:
            raise ConfigurationError(f"{self.key} cannot be read: {error.strerror}") from error
        return context


NO_FILES = BrokerAccess()


def read_access(settings: Settings) -> BrokerAccess:
    """The files that the settings name, or that lie in HOME/broker. Relative paths in config.toml start at HOME.

    Raises ConfigurationError for a file that is named and missing.
    """

    def named(option: str, usual: str | None) -> Path | None:
        said: str = getattr(settings, option)
        path = settings.home / said
        if said and not path.is_file():
            raise ConfigurationError(f"no file {path} ({option})", help=f"correct {option}, or leave it out")
        if said:
            return path
        path = settings.home / BROKER_FOLDER / (usual or "")
        return path if usual and path.is_file() else None

    ca, certificate = named("broker_ca", CA_FILE), named("broker_certificate", CERTIFICATE_FILE)
    key, password_file = named("broker_key", KEY_FILE), named("broker_password_file", None)
    if settings.broker_key and certificate is None:
        raise ConfigurationError("broker_key without broker_certificate", help="name both, or neither")
    if not settings.broker.startswith("mqtts://") and (
        settings.broker_ca or settings.broker_certificate or settings.broker_key
    ):
        raise ConfigurationError(
            "broker_ca, broker_certificate and broker_key are for TLS only", help="use an mqtts:// address as broker"
        )
    return BrokerAccess(ca, certificate, key if certificate is not None else None, password_file)


def _no_passphrase() -> str:
    """Without it OpenSSL would ask on the terminal, and a daemon would wait there for ever."""
    return ""


def _refuse_writable_by_others(path: Path) -> None:
    """Who may write it may choose whom we trust."""
    try:
        mode = path.stat().st_mode & 0o777
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    if mode & 0o022:
        raise ConfigurationError(f"{path} has mode {mode:04o}: others may write it", help=f"run: chmod go-w {path}")


def _refuse_expired(path: Path) -> None:
    from cryptography import x509

    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError
        ends = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    except ValueError as error:
        raise ConfigurationError(f"{path} holds no certificate in PEM", help="ask the broker's operator") from error
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    if ends <= datetime.now(UTC):
        raise ConfigurationError(
            f"the client certificate {path} expired on {ends:%Y-%m-%d}",
            help="send the broker's operator a new request: omnilytics broker request",
        )


# What OpenSSL found wrong with the broker's certificate: X509_V_ERR_*.
_EXPIRED, _NOT_YET_VALID, _REVOKED, _WRONG_PURPOSE = 10, 9, 23, 26
_UNKNOWN_ISSUER = (2, 18, 19, 20, 21)
_WRONG_NAME = (62, 64)

# The end of an alert's name in OpenSSL, what it means, and what to do. The broker sends them about our certificate.
_ALERTS = (
    ("CERTIFICATE_REQUIRED", "the broker wants a client certificate", "omnilytics broker request, then broker install"),
    ("UNKNOWN_CA", "the broker does not know who signed our certificate", "ask its operator for one of its own"),
    ("CERTIFICATE_EXPIRED", "the broker says that our certificate has expired", "renew it: omnilytics broker request"),
    ("CERTIFICATE_REVOKED", "the broker's operator has revoked our certificate", "ask the broker's operator"),
    ("UNSUPPORTED_CERTIFICATE", "our certificate is not one for clients", "ask the broker's operator for another"),
    ("BAD_CERTIFICATE", "the broker refuses our certificate", "ask the broker's operator for another"),
    ("CERTIFICATE_UNKNOWN", "the broker refuses our certificate", "ask the broker's operator for another"),
    # Without a certificate TLS 1.2 ends so.
    ("HANDSHAKE_FAILURE", "the broker refuses our TLS", "does it want a client certificate? ask its operator"),
    ("WRONG_VERSION_NUMBER", "the broker does not speak TLS on this port", "use mqtt://, or its port for TLS (8883)"),
    ("PROTOCOL_VERSION", "the broker speaks no TLS as new as 1.2", "ask the broker's operator to renew it"),
)
# CONNACK's reason codes, as paho translates those of MQTT 3.1.1 into those of MQTT 5.
_BAD_CREDENTIALS, _NOT_AUTHORISED, _BAD_IDENTIFIER = 134, 135, 133


def tls_failure(error: ssl.SSLError, host: str) -> BrokerError:
    """A failed handshake, or an alert that came after it, in words and with what to do about it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        code, said = error.verify_code, error.verify_message
        if code in _WRONG_NAME:
            return BrokerError(
                f"the broker's certificate is not for the name {host}",
                help="use the name that the operator gave; the check cannot be left out",
            )
        if code in _UNKNOWN_ISSUER:
            return BrokerError(
                "the broker's certificate is of an unknown CA", help="set broker_ca to the CA file of its operator"
            )
        words = {
            _EXPIRED: "the broker's certificate has expired",
            _NOT_YET_VALID: "the broker's certificate is not valid yet",
            _REVOKED: "the broker's certificate is revoked",
            _WRONG_PURPOSE: "the broker shows a certificate that is not one for servers",
        }
        hint = "check this machine's clock, then ask the broker's operator"
        return BrokerError(words.get(code, f"the broker's certificate is not valid: {said}"), help=hint)
    reason = error.reason or ""
    for ending, message, hint in _ALERTS:
        if reason.endswith(ending):
            return BrokerError(message, help=hint)
    return BrokerError(f"TLS with the broker failed: {reason.lower().replace('_', ' ') or 'no reason given'}")


def refusal(reason_code: int | None, said: str) -> BrokerError:
    """A CONNACK that says no, in words and with what to do about it."""
    if reason_code == _BAD_CREDENTIALS:
        return BrokerError(
            "the broker refuses our credentials", help="check the user in the broker's address and broker_password_file"
        )
    if reason_code == _NOT_AUTHORISED:
        return BrokerError(
            "the broker does not authorise us",
            help="it wants a user and password, or a certificate, or does not allow our own topics; ask its operator",
        )
    if reason_code == _BAD_IDENTIFIER:
        return BrokerError("the broker refuses our client identifier", help="ask its operator which it allows")
    return BrokerError(f"cannot reach broker: {said}")
