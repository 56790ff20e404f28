"""`scripts/fuzz`: mutated messages through the whole handler of a daemon, mutated files through every reader.

Exit codes: 0 nothing found; 1 a finding, with what replays it; 2 wrong options; 130 interrupted.
"""

from __future__ import annotations

import sys
from collections import Counter

import click

from tests.fuzz.campaign import MESSAGES_A_ROUND, Failure, Memory, Tally, attack, memory, play_one
from tests.fuzz.mutations import Shot
from tests.fuzz.oracle import Verdict
from tests.fuzz.readers import READERS, ReaderTally, read_mutated

# From a tenth of the messages to the end. Blocks are those of reachable objects: a state that keeps one object in a
# hundred messages passes this in the long run.
MOST_GROWTH_BYTES = 4 << 20
MOST_GROWTH_BLOCKS = 8_000


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--messages", type=click.IntRange(min=0), default=100_000, show_default=True, help="How many arrive.")
@click.option("--inputs", type=click.IntRange(min=0), default=0, show_default=True, help="For each reader, so many.")
@click.option("--seed", type=int, default=1, show_default=True, help="Everything follows from it.")
@click.option(
    "--only", type=click.IntRange(min=0), metavar="INDEX", help="Replay the round of this message, and show it."
)
@click.option("--reader", type=click.Choice(sorted(READERS)), help="With --only: replay this reader's input.")
def main(messages: int, inputs: int, seed: int, only: int | None, reader: str | None) -> None:
    """Attack daemons with messages that nobody honest sends, and readers with files that nobody wrote.

    \b
    scripts/fuzz --messages 1000000 --seed 1             the long run
    scripts/fuzz --messages 0 --inputs 20000 --seed 1    the readers
    scripts/fuzz --seed 1 --only 123456                  one message again, in its round
    """
    try:
        if only is not None:
            sys.exit(_replay(seed, only, reader))
        found = _attack(seed, messages) if messages else False
        found = (_read(seed, inputs) if inputs else False) or found
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        sys.exit(130)
    sys.exit(1 if found else 0)


def _attack(seed: int, messages: int) -> bool:
    failures: list[Failure] = []
    seen = [(0, memory())]
    step = max(messages // 10, 10_000)
    tally = Tally()
    for tally, failure in attack(seed, messages):
        if failure is not None:
            failures.append(failure)
            _tell(seed, failure)
            if len(failures) == 20:
                break
        if tally.messages - seen[-1][0] >= step:
            seen.append((tally.messages, memory()))
            click.echo(
                f"{tally.messages} messages, {tally.rounds} rounds, {tally.messages / tally.seconds:.0f} a second, "
                f"{seen[-1][1].resident / 2**20:.1f} MiB",
                err=True,
            )
    _summary(seed, tally)
    grows = _tell_memory(seen)
    click.echo(f"{len(failures)} findings")
    return bool(failures) or grows


def _tell_memory(seen: list[tuple[int, Memory]]) -> bool:
    """Shows what the process held after so many messages; whether it grows after the first tenth."""
    click.echo("memory, garbage collected")
    for messages, held in seen:
        click.echo(
            f"{messages:>10} messages  {held.resident / 2**20:.1f} MiB resident, {held.blocks} blocks of objects"
        )
    if len(seen) < 3:
        return False
    (_, warm), (_, last) = seen[1], seen[-1]
    if last.resident - warm.resident <= MOST_GROWTH_BYTES and last.blocks - warm.blocks <= MOST_GROWTH_BLOCKS:
        return False
    click.echo("FINDING memory grows with the messages")
    return True


def _summary(seed: int, tally: Tally) -> None:
    click.echo(
        f"seed {seed}: {tally.messages} messages in {tally.rounds} whole rounds, {tally.seconds:.1f} s, "
        f"{tally.messages / max(tally.seconds, 1e-9):.0f} a second"
    )
    click.echo(
        f"{tally.boxed} of them sealed with somebody's real keys, {tally.opened} opened at their receiver; "
        f"{tally.answers} answers were sent in all"
    )
    _table("what became of them", tally.verdicts)
    _table("where the receiver stood", tally.stages)
    _table("how rounds ended", tally.ends)
    click.echo("by kind of mutation (and of these heard)")
    for name, count in tally.kinds.most_common():
        click.echo(f"{count:>10} {tally.heard_of[name]:>8}  {name}")
    _table("by reason of refusal (of everything dropped, early messages and the rounds' own included)", tally.reasons)


def _table(title: str, counts: Counter[str]) -> None:
    click.echo(title)
    for name, count in counts.most_common():
        click.echo(f"{count:>10}  {name}")


def _tell(seed: int, failure: Failure) -> None:
    kind = failure.shot.kind if failure.shot is not None else "a step of the round"
    click.echo(f"FINDING at message {failure.index} ({kind}): {failure.error}")
    click.echo(f"  again: scripts/fuzz --seed {seed} --only {failure.index}")


def _replay(seed: int, index: int, reader: str | None) -> int:
    if reader is not None:
        problem = read_mutated(READERS[reader], seed, index, ReaderTally(), show=click.echo)
        click.echo(problem or "nothing wrong")
        return 1 if problem else 0

    def trace(number: int, shot: Shot, verdict: Verdict) -> None:
        if number == index:
            _show(number, shot, verdict.value)

    failure = play_one(seed, index // MESSAGES_A_ROUND, Tally(), trace)
    if failure is None:
        click.echo("nothing wrong in this round")
        return 0
    if failure.shot is not None:
        _show(failure.index, failure.shot, "")
    _tell(seed, failure)
    return 1


def _show(number: int, shot: Shot, became: str) -> None:
    click.echo(f"message {number}: {shot.kind}, {'in' if shot.boxed else 'around'} the box; {became}")
    click.echo(f"  topic {shot.topic[:200]!r}")
    shown = shot.payload.hex() if isinstance(shot.payload, bytes) else repr(shot.payload)
    click.echo(f"  payload {shown[:1100]}")


def _read(seed: int, inputs: int) -> bool:
    found = False
    for name, reader in READERS.items():
        tally = ReaderTally()
        for index in range(inputs):
            problem = read_mutated(reader, seed, index, tally)
            if problem is not None:
                found = True
                click.echo(f"FINDING {name} input {index}: {problem}")
                click.echo(f"  again: scripts/fuzz --seed {seed} --reader {name} --only {index}")
        click.echo(
            f"{name}: {tally.inputs} inputs, {tally.read} read, {tally.refused} refused in words, "
            f"slowest {tally.slowest * 1000:.0f} ms, most memory {tally.most_bytes / 2**20:.1f} MiB"
        )
    return found


if __name__ == "__main__":
    main(prog_name="scripts/fuzz")
