"""`scripts/simulate`: the market in virtual time, with faults from a seed; prints how often each fired, and what broke.

Exit codes: 0 nothing broke; 1 an invariant does not hold; 2 wrong options; 130 interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from tests.simulator.campaign import RPC_FAULTS, WRITE_FAULTS, Tally, campaign, one_fault_each, one_reorg_each, replay
from tests.simulator.fault_table import lines
from tests.simulator.plan import PROFILES
from tests.simulator.scenario import Report


def _as_range(_context: click.Context, _option: click.Parameter, value: str | None) -> range | None:
    if value is None:
        return None
    first, colon, end = value.partition(":")
    if not colon or not first.isdecimal() or not end.isdecimal() or int(first) >= int(end):
        raise click.BadParameter("use A:B, as 0:500 for the scenarios 0 to 499")
    return range(int(first), int(end))


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--rounds", type=click.IntRange(1), default=200, show_default=True, help="Play at least so many.")
@click.option("--seed", type=int, default=1, show_default=True, help="Everything comes from it.")
@click.option("--scenario", type=click.IntRange(0), help="Play only this one: to see a failure again.")
@click.option("--profile", type=click.Choice(PROFILES), help="With --scenario: other faults for the same number.")
@click.option("--trace", is_flag=True, help="With --scenario: show all logs and blocks, in virtual seconds.")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Play in so many processes.")
@click.option("--scenarios", metavar="A:B", callback=_as_range, help="Play exactly the scenarios A to B - 1.")
@click.option(
    "--results",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Keep a line for each scenario here; what is there already is not played again: to go on, to join parts.",
)
@click.option("--every-write", is_flag=True, help="One small task: each journal write fails once, in every way.")
@click.option("--every-call", type=click.IntRange(1), metavar="N", help="The same: every Nth RPC call fails once.")
@click.option("--every-reorg", type=click.IntRange(1, 32), metavar="DEPTH", help="One reorg, each depth and phase.")
@click.option("--keep-going", is_flag=True, help="Go on after a scenario in which something broke.")
@click.option("--seconds", type=float, help="Stop when so much real time is over.")
def main(
    rounds: int,
    seed: int,
    scenario: int | None,
    profile: str | None,
    trace: bool,
    jobs: int,
    scenarios: range | None,
    results: Path | None,
    every_write: bool,
    every_call: int | None,
    every_reorg: int | None,
    keep_going: bool,
    seconds: float | None,
) -> None:
    """Play tasks in virtual time and check what must hold.

    \b
    scripts/simulate --rounds 10000 --seed 1            the long run; the same with any number of --jobs
    scripts/simulate --seed 1 --scenario 17 --trace     one scenario again, with everything that happened
    scripts/simulate --every-write                      kill -9, torn write, full disk at every journal write
    scripts/simulate --every-reorg 32                   a reorg of every depth in every phase
    """
    try:
        if scenario is not None:
            report = replay(seed, scenario, click.echo if trace else None, profile)
            _show(report)
            sys.exit(1 if report.violations else 0)
        tally = Tally()
        if every_write:
            played = one_fault_each(seed, WRITE_FAULTS)
        elif every_call is not None:
            played = one_fault_each(seed, RPC_FAULTS, every_call)
        elif every_reorg is not None:
            played = one_reorg_each(seed, range(1, every_reorg + 1))
        else:
            wanted = rounds if scenarios is None else None
            played = campaign(seed, wanted, scenarios, jobs, keep_going, seconds, results)
        for report, tally in played:
            if report.violations:
                _show(report)
                if report.plan.profile in PROFILES:
                    click.echo(f"  again: scripts/simulate --seed {seed} --scenario {report.plan.number} --trace")
            if tally.scenarios % 20 == 0:
                click.echo(
                    f"{tally.rounds} rounds, {tally.scenarios} scenarios, {len(tally.failures)} broken, "
                    f"{tally.seconds:.0f} s, {tally.rounds / tally.seconds:.2f} rounds/s"
                )
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        sys.exit(130)
    _summary(seed, tally)
    sys.exit(1 if tally.failures else 0)


def _show(report: Report) -> None:
    click.echo(report.plan.describe())
    told = ", ".join(f"{count} {name}" for name, count in sorted(report.outcomes.items()))
    click.echo(
        f"  {report.rounds} rounds ({told}), {report.blocks} blocks, {report.transactions} transactions, "
        f"{report.checks} checks, {report.seconds:.0f} virtual seconds, digest {report.digest}"
    )
    for violation in report.violations:
        click.echo(f"  VIOLATION {violation}")


def _summary(seed: int, tally: Tally) -> None:
    click.echo(f"seed {seed}: {tally.rounds} rounds in {tally.scenarios} scenarios, {tally.checks} checks")
    click.echo(
        f"{tally.blocks} blocks, {tally.transactions} transactions, {tally.virtual_seconds:.0f} virtual seconds "
        f"in {tally.seconds:.0f} s"
    )
    click.echo("rounds: " + ", ".join(f"{count} {name}" for name, count in sorted(tally.outcomes.items())))
    for line in lines(tally.counters, tally.rounds):
        click.echo(line)
    click.echo(f"{len(tally.failures)} scenarios in which something broke")
    for report in tally.failures:
        click.echo(f"  scenario {report.plan.number} ({report.plan.profile}): {report.violations[0]}")


if __name__ == "__main__":
    main(prog_name="scripts/simulate")
