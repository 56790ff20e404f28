"""`scripts/differential`: the contract's libraries against their Python twins, on random chunks.

Exit codes: 0 all equal; 1 a difference; 2 wrong options; 130 interrupted.
"""

from __future__ import annotations

import sys

import click

from tests.differential.face import Difference, run


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--chunks", type=click.IntRange(1), default=1000, show_default=True, help="Compare at least so many.")
@click.option("--seed", type=int, default=1, show_default=True, help="All cases come from it.")
@click.option("--case", "first", type=click.IntRange(0), default=0, show_default=True, help="Begin with this case.")
def main(chunks: int, seed: int, first: int) -> None:
    """Compute the links, sums' distances and selections of random chunks in Solidity and in Python, and compare.

    \b
    scripts/differential --chunks 10000 --seed 1        the long run
    scripts/differential --chunks 1 --seed 1 --case 17  one case again
    """
    try:
        result, seconds = run(chunks, seed, first)
    except Difference as difference:
        click.echo(f"DIFFERENT  {difference}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    click.echo(
        f"{result.chunks:,} chunks of {result.cases:,} rounds are equal: {result.links:,} links, "
        f"{result.distances:,} distances, {result.selections:,} selections; {seconds:.0f} s"
    )


if __name__ == "__main__":
    main()
