"""Who may say and hear what on a broker, and how much: the same rules for Mosquitto and for the embedded broker.

A participant is its address, in lower-case hex, as its certificate says. It writes where it is the sender, reads where
it is the receiver, and says and hears who is there. A broker that holds to this keeps one participant from speaking in
another's name, from flooding in it and from making it look away; it is still trusted with nothing that is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omnilytics.peers.messages import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from scripts.broker_authority import Authority

# {run} is one run, or + for all; {who} is the participant.
WRITE = ("omnilytics/{run}/+/+/in/+/{who}", "omnilytics/{run}/presence/{who}")
READ = ("omnilytics/{run}/+/+/in/{who}/+", "omnilytics/{run}/presence/+")
# What a broker may keep for those who come later: who is there, and nothing else.
RETAIN = ("omnilytics/{run}/presence/{who}",)


@dataclass(frozen=True)
class Limits:
    """Quotas of a broker. Bytes are those on the wire under TLS, topics included."""

    # A packet: the largest message, and a topic of at most 271 bytes.
    packet_bytes: int = MAX_MESSAGE_BYTES + 512
    # What waits for one slow receiver, beyond what is on its way to it.
    queued_messages: int = 10_000
    queued_bytes: int = 4 << 20
    inflight_messages: int = 100
    connections: int = 4096
    # What one participant may send: bytes a second in the long run, and at once. A model owner's burst to 256 owners,
    # four messages each, is half a megabyte.
    bytes_a_second: int = 256 << 10
    burst_bytes: int = 4 << 20


LIMITS = Limits()


def covers(pattern: str, wanted: str) -> bool:
    """Whether everything that the filter (or topic) `wanted` matches is matched by `pattern`, a filter without #."""
    allowed, levels = pattern.split("/"), wanted.split("/")
    return len(allowed) == len(levels) and all(
        level not in ("", "#") and (a in ("+", level)) for a, level in zip(allowed, levels, strict=True)
    )


def may(rules: Sequence[str], who: str, wanted: str, run: str = "+") -> bool:
    """Whether one of the rules lets `who` do it."""
    return any(covers(rule.format(run=run, who=who), wanted) for rule in rules)


def mosquitto_acl(run: str = "+", bridges: Sequence[str] = ()) -> str:
    """The rules as Mosquitto's acl_file; %u is the name in the certificate. A bridge passes everything of the run."""
    lines = ["# Written by scripts/broker_rules.py: participants write their own topics and read what is for them."]
    lines += [f"pattern write {rule.format(run=run, who='%u')}" for rule in WRITE]
    lines += [f"pattern read {rule.format(run=run, who='%u')}" for rule in READ]
    for name in bridges:
        lines += ["", f"user {name}", f"topic readwrite omnilytics/{run}/#"]
    return "\n".join(lines) + "\n"


def mosquitto_security(authority: Authority, acl: Path, limits: Limits = LIMITS) -> str:
    """The part of mosquitto.conf that follows `listener`: TLS, who may connect, and quotas."""
    certificate, key = (path.resolve() for path in authority.server_paths)
    return f"""\
allow_anonymous false
cafile {authority.ca_path.resolve()}
certfile {certificate}
keyfile {key}
crlfile {authority.crl_path.resolve()}
require_certificate true
use_identity_as_username true
# Or one participant could take another's connection over by using its client identifier.
use_username_as_clientid true
acl_file {acl.resolve()}
# Not message_size_limit, which acknowledges what it drops.
max_packet_size {limits.packet_bytes}
# For one receiver; what does not fit is dropped, and sent again by who sent it. 0 would mean no limit.
max_queued_messages {limits.queued_messages}
max_queued_bytes {limits.queued_bytes}
max_inflight_messages {limits.inflight_messages}
max_connections {limits.connections}
"""


def mosquitto_bridge(name: str, host: str, port: int, ca: Path | None, files: tuple[Path, Path] | None) -> str:
    """The part of mosquitto.conf that connects this broker with another one, for all of the market's topics.

    ca and files (certificate, key) are for TLS; None where the other broker has none.
    """
    tls = ""
    if ca is not None and files is not None:
        certificate, key = files
        tls = f"""\
bridge_cafile {ca.resolve()}
bridge_certfile {certificate.resolve()}
bridge_keyfile {key.resolve()}
"""
    return f"""\
connection {name}
address {host}:{port}
topic omnilytics/# both 1
# The other side then knows a bridge, and sends nothing back that came from it.
try_private true
cleansession true
notifications false
bridge_protocol_version mqttv311
restart_timeout 1 30
{tls}"""
