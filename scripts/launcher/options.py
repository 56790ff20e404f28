"""What a testbed run is asked for, and the checks that need no chain."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from omnilytics.peers.errors import ConfigurationError
from tests.adversaries.poisons import PoisonOrder


@dataclass(frozen=True)
class Kill:
    """A participant that dies by SIGKILL: role "model" or "owner", before `moment` of a round."""

    role: str
    moment: str
    round: int


KILLS = {("model", "settle"), ("owner", "post")}


@dataclass(frozen=True)
class TestbedOptions:
    """The options of scripts/testbed, with its defaults."""

    __test__ = False

    owners: int = 18
    group_size: int = 3
    faulty: int = 1
    # One round of all rows: more rounds of fewer rows would say more of each row, and are worth nothing to ridge.
    rounds: int = 1
    protection: str = "secret-head"
    # secret-head: None is the widest that the owners' rows can hide behind.
    features: int | None = None
    model: str = "softmax"
    # None: scikit-learn's digits.
    data: Path | None = None
    label: str | None = None
    skew: float = 10.0
    seed: int = 0
    batch_size: int | None = None
    optimiser: str | None = None
    lane_bits: int = 16
    strict: bool = False
    delivery: str = "chain"
    rate: int = 10**15
    broker: str = "embedded"
    # "tls": client certificates, and topics for each participant alone.
    broker_security: str = "none"
    # None: a local anvil.
    chain: str | None = None
    key_file: Path | None = None
    depth: int = 0
    finality_depth: int = 0
    block_seconds: int = 1
    phase_seconds: int = 60
    # The local chain adds a block this often and at no other time; None: every second, and at every transaction.
    block_time: int | None = None
    # gwei to which the base fee jumps, once.
    fee_jump: int = 0
    verify: bool = False
    poison: PoisonOrder | None = None
    poison_owners: PoisonOrder | None = None
    kills: tuple[Kill, ...] = field(default=())
    # Share of the owners killed and started again in every round; seconds without a broker; blocks reorganised.
    chaos: float = 0.0
    drop_broker: float = 0.0
    reorg: int = 0
    # Every owner writes its secrets to a file: only for tests that hand them to an attacker.
    leak_secrets: bool = False
    # The model owner does not hear the vectors of so many owners: only for tests of --delivery broker.
    ignored_owners: int = 0
    # None: as long as `omnilytics model run` waits for owners to join. Many of them take longer to start.
    join_seconds: int | None = None
    # Another checkout's `omnilytics`, to be compared with; None: this one's.
    program: Path | None = None
    # The model owner and the first owner run under cProfile, and leave `profile` in their folders.
    profile: bool = False

    @property
    def killed_owners(self) -> dict[int, Kill]:
        """Which owners are killed, by index: the last one by the first such kill, the one before it by the next."""
        kills = [kill for kill in self.kills if kill.role == "owner"]
        return {self.owners - 1 - number: kill for number, kill in enumerate(kills)}

    @property
    def groups(self) -> int:
        """How many whole groups the owners make."""
        return self.owners // self.group_size

    def check(self) -> None:
        """Raises ConfigurationError for what cannot work, in the words of what to change."""
        if self.group_size < 3:
            raise ConfigurationError(f"group size {self.group_size} below minimum 3", help="raise --group-size")
        needed = 2 * self.faulty + 3
        if self.groups < needed:
            raise ConfigurationError(
                f"{self.groups} groups cannot tolerate f={self.faulty}; need {needed}",
                help=f"at least {needed * self.group_size} --owners, a smaller --group-size or a smaller --faulty",
            )
        if self.rounds < 1:
            raise ConfigurationError(f"{self.rounds} rounds are none", help="--rounds 1 or more")
        if self.data is not None and not self.data.exists():
            raise ConfigurationError(f"no file {self.data}", help="check --data")
        if self.poison is not None and self.poison.count > self.groups:
            raise ConfigurationError(f"{self.poison.count} poisoned groups of {self.groups}", help="lower --poison")
        if self.poison_owners is not None and self.poison_owners.count > self.owners:
            raise ConfigurationError(
                f"{self.poison_owners.count} poisoned owners of {self.owners}", help="lower --poison-owners"
            )
        if not 0 <= self.chaos <= 1:
            raise ConfigurationError(f"--chaos {self.chaos} is no share of the owners", help="as --chaos 0.2")
        if self.chaos and self.kills:
            raise ConfigurationError("--chaos and --kill do not go together", help="use one of them")
        if self.block_time is not None and self.chain is not None:
            raise ConfigurationError("--block-time is for the local chain", help="leave --chain or --block-time out")
        if self.block_time is not None and self.block_time > self.block_seconds:
            raise ConfigurationError(
                f"--block-time {self.block_time} is slower than what deadlines allow for",
                help=f"--block-seconds {self.block_time}",
            )
        if self.fee_jump and self.chain is not None:
            raise ConfigurationError("--fee-jump needs the local chain", help="leave --chain out")
        if self.broker_security == "tls" and self.broker not in ("embedded", "mosquitto", "bridged"):
            raise ConfigurationError(
                "--broker-security tls is for a broker of the testbed's own", help="--broker embedded, or mosquitto"
            )
        if self.reorg and self.chain is not None:
            raise ConfigurationError("--reorg needs the local chain", help="leave --chain out")
        if self.reorg > self.finality_depth:
            raise ConfigurationError(
                f"--reorg {self.reorg} is deeper than --finality-depth {self.finality_depth}: daemons would act on "
                "blocks that vanish",
                help=f"--finality-depth {self.reorg}",
            )
        if sum(kill.role == "model" for kill in self.kills) > 1:
            raise ConfigurationError("there is only one model owner to kill", help="one --kill model@settle")
        if len(self.killed_owners) > self.owners:
            raise ConfigurationError(
                f"{len(self.killed_owners)} kills of {self.owners} owners", help="fewer --kill owner@post"
            )
        for kill in self.kills:
            if not 1 <= kill.round <= self.rounds:
                raise ConfigurationError(f"--kill in round {kill.round} of {self.rounds}", help="another round")


def parse_kill(text: str, rounds: int = 3) -> Kill:
    """ROLE@MOMENT[:ROUND], as model@settle or owner@post:4; without ROUND in round 3, or the last of `rounds` if there
    are fewer. Raises ConfigurationError.
    """
    who, _, round_text = text.partition(":")
    role, _, moment = who.partition("@")
    round_text = round_text or str(max(1, min(3, rounds)))
    if (role, moment) not in KILLS or not round_text.isdecimal():
        raise ConfigurationError(f"'{text}' is no kill", help="model@settle or owner@post, with :ROUND (default 3)")
    return Kill(role, moment, int(round_text))
