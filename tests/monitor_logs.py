"""Logs of a market that never was: the lines that its daemons would have written, for tests and measurements."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# 2026-01-01T00:00:00Z
START = 1_767_225_600.0
RATE = 10**15
FIELDS = ("msg", "level", "task", "round", "group", "phase", "dur_ms", "peer_to", "tx", "block", "gas", "wei", "code")


def address(number: int) -> str:
    """An account: owners from 0, the model owner is 255."""
    return "0x" + f"{number + 1:02x}" * 20


@dataclass
class Daemon:
    """One daemon that writes lines."""

    name: str
    number: int
    role: str = "owner"
    boot: str = "b1"
    seq: int = 0

    @property
    def peer(self) -> str:
        """Its address."""
        return address(self.number)

    def line(self, second: float, event: str, **fields: Any) -> str:
        """A line `second` seconds after the start, as daemon/log.py writes it."""
        self.seq += 1
        record: dict[str, Any] = {
            "v": 1,
            "ts": datetime.fromtimestamp(START + second, UTC).isoformat(timespec="milliseconds"),
            "mono": round(second, 4),
            "seq": self.seq,
            "boot_id": self.boot,
            "peer": self.peer,
            "role": self.role,
            "event": event,
            "level": "info",
            "msg": "",
        }
        data: dict[str, Any] = {}
        for name, value in fields.items():
            (record if name in FIELDS else data)[name] = value
        if data:
            record["data"] = data
        return json.dumps(record, separators=(",", ":"))

    def restarted(self) -> None:
        """A new life."""
        self.boot, self.seq = f"{self.boot}+", 0


@dataclass
class MadeUpMarket:
    """A market of groups in one task.

    poisoned: groups that are far from the others; killed: owner number -> round in which it commits and dies.
    """

    owners: int = 9
    group_size: int = 3
    rounds: int = 3
    faulty: int = 0
    poisoned: tuple[int, ...] = ()
    killed: dict[int, int] = field(default_factory=dict)
    ends: bool = True
    round_seconds: float = 10.0

    def __post_init__(self) -> None:
        self.model = Daemon("model", 254, "model")
        self.people = [Daemon(f"owner-{number:02d}", number) for number in range(self.owners)]
        self.block = 10
        self.paid = 0
        self.slashed = 0

    @property
    def group_count(self) -> int:
        """Whole groups."""
        return self.owners // self.group_size

    def money(self, second: float, number: int, **changes: int) -> dict[str, Any]:
        """The fields of a money line."""
        escrow = RATE * self.owners * self.rounds + 10**17
        amounts = {
            "escrow": escrow,
            "paid": self.paid,
            "settlement_paid": 0,
            "refunded": 0,
            "locked": escrow - self.paid,
            "stakes_in": 4 * RATE * self.owners,
            "stakes_out": 0,
            "slashed": self.slashed,
            "compensation": self.slashed,
            "burned": 0,
        }
        amounts |= changes
        if "locked" not in changes:
            spent = amounts["paid"] + amounts["settlement_paid"] + amounts["refunded"]
            amounts["locked"] = escrow - spent
        return {"task": 1, "round": number, "block": self.block} | {f"{k}_wei": v for k, v in amounts.items()}

    def lines(self) -> Iterator[tuple[str, str]]:
        """(daemon's name, line) in the order of time; the same every time."""
        self.__post_init__()
        yield from self._beginning()
        out: set[int] = set()
        for number in range(1, self.rounds + 1):
            yield from self._round(number, out)
        if self.ends:
            yield from self._end()

    def files(self, folder: Path) -> Path:
        """Writes the logs as a testbed's run keeps them; the folder."""
        (folder / "logs").mkdir(parents=True)
        texts: dict[str, list[str]] = {}
        for name, line in self.lines():
            texts.setdefault(name, []).append(line)
        for name, lines in texts.items():
            (folder / "logs" / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return folder

    def _everybody(self) -> list[Daemon]:
        return [self.model, *self.people]

    def heartbeat(self, daemon: Daemon, second: float, **changes: Any) -> str:
        """A sign of life."""
        facts = {
            "head_block": self.block, "head_time": int(START + second), "head_age_s": 1.0, "skew_s": 0.0,
            "seen_block": self.block, "tx_pending": 0, "broker_connected": True, "disk_free_bytes": 10**11,
            "dropped_topics": 0, "dropped_in_flood": 0,
        }  # fmt: skip
        return daemon.line(second, "heartbeat", msg="alive", **(facts | changes))

    def _beginning(self) -> Iterator[tuple[str, str]]:
        model, size = self.model, self.group_size
        for daemon in self._everybody():
            yield daemon.name, daemon.line(0.1, "daemon.ready", msg="ready")
            yield daemon.name, self.heartbeat(daemon, 0.2)
        escrow = RATE * self.owners * self.rounds + 10**17
        yield (
            model.name,
            model.line(
                0.3, "tx.mined", block=5, gas=330_000, wei=330_000 * 10**9, dur_ms=100, tx="0xc0", function="createTask"
            ),
        )
        yield model.name, model.line(0.4, "task.created", msg="task 1: made up", task=1, wei=escrow)
        yield model.name, model.line(0.5, "task.ready", task=1, accuracy=0.1, before_round=1)
        terms = {
            "rounds": self.rounds, "group_size": size, "max_groups": self.group_count, "faulty_groups": self.faulty,
            "minimum_groups": 2 * self.faulty + 3, "rate_wei": RATE, "stake_wei": 4 * RATE, "deposit_wei": RATE,
            "commit_seconds": 60, "model_owner": model.peer,
        }  # fmt: skip
        for daemon in self._everybody():
            yield daemon.name, daemon.line(0.6, "task.terms", task=1, block=6, **terms)
            yield (
                daemon.name,
                daemon.line(
                    0.6,
                    "phase.enter",
                    msg="joining",
                    task=1,
                    round=0,
                    phase="joining",
                    block=6,
                    deadline=int(START) + 60,
                ),
            )
        for daemon in self.people:
            yield (
                daemon.name,
                daemon.line(
                    1.0,
                    "tx.mined",
                    task=1,
                    round=0,
                    block=7,
                    gas=160_000,
                    wei=160_000 * 10**9,
                    dur_ms=90,
                    tx=f"0x10{daemon.number}",
                    function="join",
                ),
            )
        for daemon in self._everybody():
            yield (
                daemon.name,
                daemon.line(
                    2.0, "phase.enter", msg="idle", task=1, round=0, phase="idle", block=9, deadline=int(START) + 60
                ),
            )
            yield daemon.name, daemon.line(2.1, "money", **self.money(2.1, 0))
        for group in range(self.group_count):
            members = [address(group * size + position) for position in range(size)]
            yield model.name, model.line(2.2, "group.drawn", task=1, round=0, group=group, members=members)
            for position in range(size):
                owner = self.people[group * size + position]
                yield owner.name, owner.line(2.2, "group.drawn", task=1, round=0, group=group, members=members)

    def _round(self, number: int, out: set[int]) -> Iterator[tuple[str, str]]:
        start, size, model = 3.0 + (number - 1) * self.round_seconds, self.group_size, self.model
        deadline, ctx = int(START + start) + 60, f"0x{number:064x}"
        alive = [owner for owner in self.people if self.killed.get(owner.number, 10**9) >= number]
        playing = [group for group in range(self.group_count) if group not in out]

        def enter(second: float, phase: str) -> Iterator[tuple[str, str]]:
            self.block += 3
            for daemon in (model, *alive):
                yield (
                    daemon.name,
                    daemon.line(
                        second,
                        "phase.enter",
                        msg=phase,
                        task=1,
                        round=number,
                        phase=phase,
                        block=self.block,
                        deadline=deadline,
                    ),
                )

        def groups(second: float, phase: str, complete: list[int]) -> Iterator[tuple[str, str]]:
            for daemon in (model, *alive):
                yield (
                    daemon.name,
                    daemon.line(
                        second,
                        "round.groups",
                        task=1,
                        round=number,
                        phase=phase,
                        block=self.block,
                        ctx=ctx,
                        committed=playing,
                        sat_out=[],
                        complete=complete,
                        short=sorted(out),
                        dissolved=[],
                    ),
                )

        yield (
            model.name,
            model.line(
                start,
                "tx.mined",
                task=1,
                round=number,
                phase="open",
                block=self.block,
                gas=160_000,
                wei=160_000 * 10**9,
                dur_ms=40,
                tx=f"0x20{number}",
                function="openRound",
            ),
        )
        yield from enter(start + 0.1, "commit")
        players = [owner for owner in alive if owner.number // size in playing]
        for owner in players:
            at, group = start + 0.2, owner.number // size
            place = {"task": 1, "round": number, "group": group}
            yield (
                owner.name,
                owner.line(at, "round.begin", msg="exchanging seeds", phase="seeding", block=self.block, **place),
            )
            for position in range(size):
                mate = address(group * size + position)
                if mate != owner.peer:
                    yield (
                        owner.name,
                        owner.line(at + 0.2, "seed.hello", level="debug", peer_to=mate, dur_ms=200, **place),
                    )
                    yield (
                        owner.name,
                        owner.line(at + 0.4, "seed.agreed", level="debug", peer_to=mate, dur_ms=400, **place),
                    )
            yield (
                model.name,
                model.line(at + 0.4, "key.delivered", level="debug", task=1, round=number, peer_to=owner.peer),
            )
            yield (
                owner.name,
                owner.line(at + 0.5, "train.done", msg="update ready", task=1, round=number, dur_ms=40, clip_rate=0.01),
            )
            yield owner.name, owner.line(at + 0.6, "stage.enter", msg="masking", phase="masking", dur_ms=600, **place)
            yield (
                owner.name,
                owner.line(at + 0.7, "stage.enter", msg="committing", phase="committing", dur_ms=700, **place),
            )
            yield (
                owner.name,
                owner.line(
                    at + 0.8,
                    "tx.mined",
                    phase="commit",
                    block=self.block,
                    gas=56_000,
                    wei=56_000 * 10**9,
                    dur_ms=80,
                    tx=f"0x30{number}{owner.number}",
                    function="commit",
                    **place,
                ),
            )
            yield (
                owner.name,
                owner.line(at + 0.9, "stage.enter", msg="committed", phase="committed", dur_ms=900, **place),
            )
        yield (
            model.name,
            model.line(start + 1.4, "delivery.closed", msg="all have the key", task=1, round=number, silent=[]),
        )
        yield from enter(start + 1.5, "post")
        yield from groups(start + 1.5, "post", [])
        dying = [owner for owner in players if self.killed.get(owner.number) == number]
        alive[:] = [owner for owner in alive if owner not in dying]
        for owner in [player for player in players if player not in dying]:
            yield (
                owner.name,
                owner.line(
                    start + 1.8,
                    "tx.mined",
                    task=1,
                    round=number,
                    phase="post",
                    group=owner.number // size,
                    block=self.block,
                    gas=90_000,
                    wei=90_000 * 10**9,
                    dur_ms=80,
                    tx=f"0x40{number}{owner.number}",
                    function="post",
                ),
            )
        broken = {owner.number // size for owner in dying}
        complete = [group for group in playing if group not in broken]
        yield from enter(start + 3.0, "settle")
        yield from groups(start + 3.0, "settle", complete)
        settler = alive[number % len(alive)]
        yield (
            settler.name,
            settler.line(
                start + 3.2,
                "tx.mined",
                task=1,
                round=number,
                phase="settle",
                block=self.block,
                gas=1_200_000,
                wei=1_200_000 * 10**9,
                dur_ms=60,
                tx=f"0x50{number}",
                function="settle",
            ),
        )
        selected = [group for group in complete if group not in self.poisoned]
        self.paid += RATE * size * len(selected)
        self.slashed += 3 * RATE * len(dying)
        out |= broken
        yield from enter(start + 3.5, "idle")
        yield from groups(start + 3.5, "idle", complete)
        for daemon in (model, *alive):
            yield daemon.name, daemon.line(start + 3.6, "money", **self.money(start, number))
            yield (
                daemon.name,
                daemon.line(
                    start + 3.6,
                    "round.paid",
                    task=1,
                    round=number,
                    block=self.block,
                    wei=RATE * size * len(selected),
                    groups=selected,
                ),
            )
        far = {group: 10**9 if group in self.poisoned else 10**4 + group for group in complete}
        distances = [[str(0 if a == b else max(far[a], far[b])) for b in complete] for a in complete]
        yield model.name, model.line(
            start + 4.0, "round.done", msg="done", task=1, round=number, dur_ms=4000,
            accuracy=0.5 + 0.4 * number / self.rounds, outcome="selected", selected_groups=selected,
            complete_groups=complete, void_groups=sorted(set(range(self.group_count)) - set(complete)),
            slashed=[owner.peer for owner in dying], distances=distances, headroom_bits=4.2,
        )  # fmt: skip
        for daemon in (model, *alive):
            yield daemon.name, self.heartbeat(daemon, start + 5.0)

    def _end(self) -> Iterator[tuple[str, str]]:
        second = 3.0 + self.rounds * self.round_seconds
        everybody = [self.model, *[o for o in self.people if o.number not in self.killed]]
        for daemon in everybody:
            yield (
                daemon.name,
                daemon.line(
                    second,
                    "phase.enter",
                    msg="ended",
                    task=1,
                    round=self.rounds,
                    phase="ended",
                    block=self.block,
                    deadline=0,
                ),
            )
        for daemon in everybody:
            yield (
                daemon.name,
                daemon.line(
                    second + 1,
                    "tx.mined",
                    task=1,
                    round=self.rounds,
                    block=self.block,
                    gas=80_000,
                    wei=80_000 * 10**9,
                    dur_ms=90,
                    tx=f"0x60{daemon.number}",
                    function="withdraw",
                    wei_expected=RATE,
                    wei_received=4 * RATE,
                ),
            )
            yield daemon.name, daemon.line(second + 2, "task.done", msg="everything is collected", task=1)
            yield daemon.name, daemon.line(second + 2.1, "daemon.exit", msg="exit: finished", reason="finished")
