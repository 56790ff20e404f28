"""`scripts/mutate-contracts`: small changes of the contract's sources, and which of them its tests do not notice.

Works in a copy under a temporary folder: neither sources nor artifacts of the clone are touched. What the
tests of tests/contracts/MarketGas.t.sol measure is left out: the mutants' code is not optimised.

Exit codes: 0 run, whatever survived; 1 the tests fail without any mutant; 2 wrong options; 130 interrupted.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any

import click

from scripts.toolchain import ROOT, find_forge
from tests.contracts.mutants import (
    FILES,
    LIBRARY_FILES,
    Mutant,
    all_mutants,
    artifact,
    compile_guarded,
    read_sources,
    sample,
)

BATCH = 220  # mutants in one compilation: more take the compiler longer than two of them
TIMEOUT = 300.0  # seconds for the tests of one mutant; a loop that no longer ends is noticed by that


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--count", type=click.IntRange(1), default=200, show_default=True, help="So many mutants, sampled.")
@click.option("--all", "everything", is_flag=True, help="All mutants: hours.")
@click.option("--seed", type=int, default=1, show_default=True, help="Which ones are sampled.")
@click.option("--file", "files", multiple=True, type=click.Choice(FILES), help="Only of these sources.")
@click.option("--function", "functions", multiple=True, help="Only in these functions, all of their mutants.")
@click.option("--skip", metavar="FILE", type=click.Path(path_type=Path), help="Leave out the mutants listed in it.")
@click.option("--only", metavar="FILE", type=click.Path(path_type=Path), help="Take those listed in it.")
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True, help="Mutants tested at a time.")
@click.option("--list", "listing", is_flag=True, help="Print the mutants and stop.")
@click.option("--survivors", type=click.Path(path_type=Path), help="Write the survivors to this file, one a line.")
@click.option("--folder", type=click.Path(path_type=Path), help="Keep the copy here: a second run compiles no tests.")
def main(
    count: int,
    everything: bool,
    seed: int,
    files: tuple[str, ...],
    functions: tuple[str, ...],
    skip: Path | None,
    only: Path | None,
    jobs: int,
    listing: bool,
    survivors: Path | None,
    folder: Path | None,
) -> None:
    """Change the contract in small ways and show which changes its tests do not notice.

    \b
    scripts/mutate-contracts                            200 mutants of seed 1
    scripts/mutate-contracts --function withdraw        every mutant of one function
    scripts/mutate-contracts --count 500 --seed 2 --survivors survivors.txt
    """
    contracts = ROOT / "contracts"
    sources = read_sources(contracts, ROOT / "tests" / "contracts" / "Face.sol")
    mutants = [
        mutant
        for mutant in all_mutants(contracts, sources)
        if (not files or mutant.file in files) and (not functions or mutant.function in functions)
    ]
    total = len(mutants)
    if skip is not None:
        known = set(skip.read_text().splitlines())
        mutants = [mutant for mutant in mutants if str(mutant) not in known]
    if only is not None:
        wanted = set(only.read_text().splitlines())
        mutants = [mutant for mutant in mutants if str(mutant) in wanted]
    elif not everything and not functions:
        mutants = sample(mutants, count, seed)
    click.echo(f"{len(mutants)} of {total} mutants")
    if listing:
        for mutant in mutants:
            click.echo(str(mutant))
        return
    work = folder or Path(tempfile.mkdtemp(prefix="omnilytics-mutants-"))
    try:
        _prepare(work)
        alive = _run(work, contracts, sources, mutants, jobs)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        if folder is None:
            shutil.rmtree(work)
    if survivors is not None:
        survivors.write_text("".join(f"{mutant}\n" for mutant in alive))


def _prepare(work: Path) -> None:
    """A copy of sources and tests; what forge compiled before is kept."""
    for name in ("contracts/src", "tests/contracts", "tests/vectors"):
        shutil.copytree(ROOT / name, work / name, dirs_exist_ok=True)
    for name in ("foundry.toml", "solc.cjs"):
        shutil.copy2(ROOT / "contracts" / name, work / "contracts" / name)
    for name in ("cache", "out"):
        if (ROOT / "contracts" / name).is_dir() and not (work / "contracts" / name).is_dir():
            shutil.copytree(ROOT / "contracts" / name, work / "contracts" / name)
    modules = work / "contracts" / "node_modules"
    if not modules.exists():
        modules.symlink_to(ROOT / "contracts" / "node_modules")
    _answer_version_at_once(work / "contracts")
    settings = work / "contracts" / "foundry.toml"
    settings.write_text(settings.read_text().replace("[{ access", '[{ access = "read", path = "../mutant" }, { access'))


def _answer_version_at_once(contracts: Path) -> None:
    """Puts a compiler beside solc.cjs that knows its version: forge asks at every start, for a second each."""
    command = ["node", str(contracts / "solc.cjs"), "--version"]
    version = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    solc = contracts / "solc"
    solc.write_text(
        "#!/bin/sh\n"
        f"if [ \"$1\" = --version ]; then printf '%s' '{version}'\n"
        'else exec node "${0%/*}/solc.cjs" "$@"; fi\n'
    )
    solc.chmod(0o755)


def _run(work: Path, contracts: Path, sources: dict[str, str], mutants: list[Mutant], jobs: int) -> list[Mutant]:
    count: Counter[str] = Counter()
    alive: list[Mutant] = []
    started = time.monotonic()
    for first in range(0, len(mutants), BATCH):
        compiled, batch, refused = compile_guarded(contracts, sources, mutants[first : first + BATCH])
        count["did not compile"] += len(refused)
        for mutant in refused:
            click.echo(f"did not compile  {mutant}")
        if first == 0:
            click.echo("running the tests without a mutant; forge compiles them first")
        killer = _killer(work, compiled, 0, None)
        if killer:
            click.echo(f"the tests fail without any mutant: {killer}", err=True)
            sys.exit(1)
        click.echo(f"{len(batch)} mutants compiled, {time.monotonic() - started:.0f} s")
        with ThreadPoolExecutor(jobs) as pool:
            killers = pool.map(_killer, repeat(work), repeat(compiled), range(1, len(batch) + 1), batch)
            for mutant, killer in zip(batch, killers, strict=True):
                count["killed" if killer else "survived"] += 1
                click.echo(f"{f'killed by {killer}' if killer else 'SURVIVED'}  {mutant}")
                if not killer:
                    alive.append(mutant)
    click.echo(", ".join(f"{name} {count[name]}" for name in ("killed", "survived", "did not compile")))
    click.echo(f"{time.monotonic() - started:.0f} s")
    return alive


def _killer(work: Path, compiled: dict[str, Any], number: int, mutant: Mutant | None) -> str:
    """The first test that fails, or "" where none does. Cheap tests first."""
    folder = work / "mutant" / str(number)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for name in ("Market", "Face"):
            (folder / f"{name}.json").write_text(artifact(compiled[name], number))
        library = mutant is not None and mutant.file in LIBRARY_FILES
        suites_and_runs = [("Libraries", 4)] if library or mutant is None else []
        suites_and_runs += [
            ("Market(Setup|Money|Rounds|Edges|Selection|Delivery)", 2),
            ("Invariant", 4),
            ("MarketRounds", 64),
        ]
        for suites, runs in suites_and_runs:
            killer = _forge(work, folder, suites, runs, mutant is None)
            if killer:
                return killer
        return ""
    finally:
        shutil.rmtree(folder)


def _forge(work: Path, folder: Path, suites: str, runs: int, patient: bool) -> str:
    environment = {
        **os.environ,
        "FOUNDRY_SOLC": str(work / "contracts" / "solc"),
        "MARKET_ARTIFACT": f"../mutant/{folder.name}/Market.json",
        "FACE_ARTIFACT": f"../mutant/{folder.name}/Face.json",
        "FOUNDRY_FUZZ_RUNS": str(runs),
        "FOUNDRY_FUZZ_SEED": "0x1",
        "FOUNDRY_INVARIANT_RUNS": str(runs),
        "FOUNDRY_INVARIANT_DEPTH": "60",
        "FOUNDRY_INVARIANT_SHRINK_RUN_LIMIT": "0",  # that it fails is enough; the shortest way there takes minutes
        # what failed for another mutant is not tried again
        "FOUNDRY_FUZZ_FAILURE_PERSIST_DIR": str(folder / "fuzz"),
        "FOUNDRY_INVARIANT_FAILURE_PERSIST_DIR": str(folder / "invariant"),
        "FOUNDRY_TEST_FAILURES_FILE": str(folder / "failures"),
    }
    try:
        run = subprocess.run(
            [find_forge(), "test", "--fail-fast", "--match-contract", suites],
            cwd=work / "contracts",
            env=environment,
            capture_output=True,
            text=True,
            timeout=None if patient else TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        return "no end"
    if run.returncode == 0:
        return ""
    name = first_failure(run.stdout)
    if not name:
        raise click.ClickException(f"forge failed otherwise:\n{run.stdout[-2000:]}{run.stderr[-2000:]}")
    return name


def first_failure(output: str) -> str:
    """The name of the first test that failed in forge's output, or "": behind the reason on its line, or where the
    calls that broke an invariant are listed, on a line of its own behind them."""
    failed = re.search(r"^\[FAIL[^\n]*\] (\w+)\(|^\[FAIL.*?^ (invariant_\w+)\(", output, re.MULTILINE | re.DOTALL)
    return next((name for name in failed.groups() if name), "") if failed else ""


if __name__ == "__main__":
    main(prog_name="scripts/mutate-contracts")
